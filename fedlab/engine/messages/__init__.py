"""What travels: records, broadcasts, partial sums."""
