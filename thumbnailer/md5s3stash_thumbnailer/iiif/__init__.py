"""IIIF's Image API, versions 3.0 and 2.1, at level 2. `app.py` adds its paths, and nothing else imports this folder."""
