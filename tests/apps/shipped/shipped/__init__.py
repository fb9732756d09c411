"""shipped: a Flower app."""
