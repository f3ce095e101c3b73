"""The page that shows a stashed picture to its last pixel, and the files that it needs."""
