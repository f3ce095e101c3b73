"""Decodes bytes to pixels: one module per family of formats."""
