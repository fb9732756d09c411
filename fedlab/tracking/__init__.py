"""What a run leaves behind: its directory, its keys, its provenance."""
