"""The look at a content that Pillow and libmagic take: what it is, and the size of a picture."""
