"""Moves what lies in the 36 buckets of the multibucket scheme into one bucket."""
