"""Secure aggregation: a sum of which only the sum is seen."""
