"""Which content has a URL or a record: read from the ledger. Imports server."""
