"""Dropped lists of URLs. Imports config, runtime, disk, spool, ledger, downloads."""
