"""(G, C) as one vector: what sensitivity and noise are stated in."""

import math

import numpy as np

from fedlab.stats import NoisyGram
from fedlab.stats.arithmetic.triangle import flatten


def half_vector(statistics: NoisyGram) -> np.ndarray:
    """Return (G_ii, sqrt(2) G_ij, C) as one vector, in which sensitivity and noise are plain Euclidean."""
    plain = statistics.real()
    triangle = flatten(plain.gram.cpu().numpy() * math.sqrt(2.0))
    ends = np.cumsum([0, *range(plain.num_features, 1, -1)])
    triangle[ends] /= math.sqrt(2.0)
    return np.concatenate([triangle, plain.cross.cpu().numpy().reshape(-1)])
