"""Frozen extractors and the cache that asks each of them once."""
