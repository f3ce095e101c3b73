"""Counters, metrics, health, systemd. Imports runtime, spool, power_cut, ledger."""
