"""The top floor: the `fedlab` command, one file per study, benchmarks and notebooks."""
