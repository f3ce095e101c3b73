"""Processes that render, each sealed; imports `render/` and `cache/`, not the server."""
