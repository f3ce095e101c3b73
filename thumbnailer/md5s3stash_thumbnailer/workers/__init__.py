"""The processes that render, and how the server talks to them."""
