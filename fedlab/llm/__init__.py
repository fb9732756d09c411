"""Language models: those one asks, those one tunes under differential privacy, and what they write."""
