"""What a run keeps on disk to go on from, or to forget a client."""
