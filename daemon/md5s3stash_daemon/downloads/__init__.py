"""Fetching URLs, for lists and SQS. Imports config, runtime, ledger."""
