"""Protects the spool against a power cut. Imports runtime, disk, spool."""
