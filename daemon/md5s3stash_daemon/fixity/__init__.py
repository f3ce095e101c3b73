"""Do the buckets still have what the ledger says? Imports config, runtime, disk, spool, ledger."""
