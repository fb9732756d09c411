"""Noise that keeps a guarantee, and how far one record moves what it is added to."""
