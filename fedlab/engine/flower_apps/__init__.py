"""Any Flower app on these grids, unmodified."""
