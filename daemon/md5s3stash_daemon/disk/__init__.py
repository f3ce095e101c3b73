"""Files and folders below a directory that others write to. Imports core alone."""
