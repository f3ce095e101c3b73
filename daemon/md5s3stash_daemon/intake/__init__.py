"""The ways in, one folder each; none imports another."""
