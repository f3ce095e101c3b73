"""Health, metrics, status page. Imports config, runtime, spool, ledger, provenance, monitoring, deliveries."""
