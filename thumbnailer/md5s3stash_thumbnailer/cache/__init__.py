"""Originals and reduced copies on the local disk."""
