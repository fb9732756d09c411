"""Language models that one asks: in this process, or behind an endpoint."""
