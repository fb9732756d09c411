"""legacy: a Flower app."""
