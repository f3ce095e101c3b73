"""Do the buckets still have what the ledger says? Imports ledger."""
