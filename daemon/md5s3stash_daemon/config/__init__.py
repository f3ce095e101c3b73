"""Settings: read, checked, reloaded. Imports core alone."""
