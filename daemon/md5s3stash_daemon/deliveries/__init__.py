"""Dropped folders with a checksum manifest. Imports config, runtime, disk, spool, ledger."""
