"""Settings: read, checked, reloaded. Imports only core."""
