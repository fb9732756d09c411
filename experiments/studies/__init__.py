"""One file per study of a paper."""
