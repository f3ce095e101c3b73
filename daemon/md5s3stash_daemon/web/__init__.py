"""The HTTP port: /healthz, /metrics and the status page. Imports no intake."""
