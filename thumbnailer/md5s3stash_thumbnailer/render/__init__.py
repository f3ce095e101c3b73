"""Bytes to a thumbnail. Knows no network, no tornado and no cache."""
