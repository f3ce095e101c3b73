"""Renders bytes to a thumbnail. Imports no network package, no tornado and no cache."""
