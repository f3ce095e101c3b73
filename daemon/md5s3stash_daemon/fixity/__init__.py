"""Do the buckets still hold what the ledger says? Imports ledger."""
