"""Dropped files: the main loop and the worker processes. Imports config, runtime, disk, spool, ledger, monitoring."""
