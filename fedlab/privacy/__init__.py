"""Privacy one can state: how much noise a promise takes, and who has been told how much."""
