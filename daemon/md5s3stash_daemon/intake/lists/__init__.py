"""Dropped lists of URLs."""
