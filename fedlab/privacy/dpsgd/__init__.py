"""Gradient descent under differential privacy, over Opacus."""
