"""Recordings through the filter: where they come from, what is hidden on the way, and its ticks."""
