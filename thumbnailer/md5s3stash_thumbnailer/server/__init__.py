"""HTTP: handlers, listening, a graceful stop."""
