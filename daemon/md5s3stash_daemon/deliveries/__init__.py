"""Dropped folders with a checksum manifest. Imports runtime, disk, spool, ledger."""
