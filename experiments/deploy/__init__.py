"""Deployment on real Flower processes: keys, processes, a federation of them, and the `fedlab deploy` command."""
