"""A room for a process that reads the bytes of strangers: no files, no network, no other process."""
