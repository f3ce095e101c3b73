"""The sources of work, one folder each; none imports another."""
