"""Numbers: products that are exact, triangular packing, solves."""
