"""Server side: one Flower strategy per method, and the ServerApp."""
