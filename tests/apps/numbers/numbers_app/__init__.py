"""numbers: a Flower app."""
