"""Fetching URLs, for lists and SQS. Imports runtime, spool, ledger and monitoring."""
