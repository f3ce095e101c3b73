"""The receipt of a delivery: what is wrong with it, as JSON and as a page."""
