"""A run put together, and the loop."""
