"""Dropped files: the main loop and the worker processes."""
