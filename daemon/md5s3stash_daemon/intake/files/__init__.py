"""Dropped files: the main loop, the worker processes, and what they do."""
