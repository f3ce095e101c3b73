"""Parts of the settings, which options.py puts together."""
