"""The HTTP port: /healthz, /metrics and the status page. Imports config, runtime, spool, ledger, monitoring."""
