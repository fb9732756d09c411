"""Language models: those one asks, those one tunes under differential privacy, and what they write.

A setting out of its range is refused where it is given, with value, limit and remedy: `fedlab.checks`, `BadInput`.
"""
