"""Health, metrics, status page. Imports config, runtime, spool, ledger, fixity, provenance, monitoring, deliveries."""
