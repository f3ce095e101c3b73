"""Notices: deliveries, wrong objects. Imports config, runtime, disk, fixity, provenance, monitoring, deliveries."""
