"""Statistics as bytes: packed, added as they are, or as one vector of integers."""
