"""One file per word of the `fedlab` command."""
