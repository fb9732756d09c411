"""What is drawn by a seed: random numbers for each purpose by itself."""

from __future__ import annotations

import numpy as np

from fedlab import checks


def rng_for(seed: int, purpose: str) -> np.random.Generator:
    """Return random numbers for one purpose: a run has one seed, and what it draws must have nothing in common.

    Raises:
        BadInput: A seed below 0.
    """
    return np.random.default_rng([checks.integer("seed", seed, least=0), *purpose.encode()])
