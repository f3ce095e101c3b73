"""Notices of ended deliveries and wrong objects. Imports config, runtime, disk, fixity, provenance, monitoring, deliveries."""
