"""The program `md5s3stashctl`. Imports config, disk, spool, power_cut, ledger, fixity, provenance, deliveries."""
