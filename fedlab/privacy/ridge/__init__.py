"""Ridge statistics released under differential privacy."""
