"""Who sent what and when: the ledger log collected in an SQLite file. Imports config, runtime, ledger."""
