"""The formats of an answer for clients that accept several."""
