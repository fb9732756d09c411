"""How good a model is, at once or after each step of a stream."""
