"""Measured against the floor of the work and against the peer, in one run."""
