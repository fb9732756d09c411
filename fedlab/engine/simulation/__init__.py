"""Grids that run ClientApps in this process or on Ray."""
