"""Images of the programs for container engines, and a way to build and run them where there is no engine."""
