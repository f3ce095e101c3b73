"""The record of what was stashed, in Redis. Imports runtime."""
