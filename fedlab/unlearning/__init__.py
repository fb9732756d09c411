"""Exact unlearning: who leaves the sums of a federation, and what is left of them."""
