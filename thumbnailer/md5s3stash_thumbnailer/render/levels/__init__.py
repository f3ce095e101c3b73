"""Pictures that are kept at several sizes: pyramids of our own, and originals that have them."""
