"""Models that learn from texts, privately where the texts are."""
