"""Who has which data: sources give datasets, partitions deal their rows to clients."""
