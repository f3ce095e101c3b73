"""The HTTP port: health, metrics, status page. Imports config, runtime, spool, ledger, monitoring, deliveries."""
