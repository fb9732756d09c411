"""Privacy one can state: how much noise a budget takes, and what was released about whom."""
