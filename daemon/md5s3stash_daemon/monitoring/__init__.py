"""Counters, metrics, health, systemd. Imports runtime, spool and ledger."""
