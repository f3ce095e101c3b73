"""Settings: read, checked, reloaded. Imports spool."""
