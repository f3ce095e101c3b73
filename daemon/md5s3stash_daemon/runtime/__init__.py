"""What every part of a long-running process uses. Imports core alone."""
