"""Copies a stash to another set of buckets, such as the 36 of the multibucket scheme into one."""
