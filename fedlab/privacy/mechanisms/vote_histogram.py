"""Votes: who is nearest to the private texts, in a histogram that hides every one of them.

    h_j = |{ i : c_j is the candidate nearest to x_i }|,     released  h + N(0, m^2 I)

A text votes once, so adding or removing it changes one entry by 1: sensitivity 1 in the L2 norm, however many
candidates there are. Votes say which of the server's texts look like a client's own, and a client needs no more
than an embedding to cast them: the way for one too weak to fine-tune a generator.

Lin et al., Private Evolution, ICLR 2024, https://arxiv.org/abs/2305.15560, algorithm 2; Xie et al., Aug-PE, ICML 2024,
https://arxiv.org/abs/2403.01749. n private texts, k candidates, d coordinates, m noise multiplier.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64

from fedlab.errors import BadInput

SENSITIVITY = 1.0
"""Sensitivity of the histogram, in the L2 norm, to one text added or removed."""
BLOCK = 4096
"""Private texts whose distances are in memory at a time."""


def histogram(private: Float32[np.ndarray, "n d"], candidates: Float32[np.ndarray, "k d"]) -> Float64[np.ndarray, " k"]:
    """Return how many private texts are nearest to each candidate; of equally near ones the first has the vote.

    Raises:
        BadInput: There is no candidate, or the two have other widths.
    """
    if not len(candidates):
        raise BadInput("0 candidates: a vote needs at least one")
    if private.shape[1] != candidates.shape[1]:
        raise BadInput(
            f"private texts have {private.shape[1]} coordinates, candidates {candidates.shape[1]}: embed both by one "
            "model"
        )
    squares = np.square(candidates).sum(1)
    counts = np.zeros(len(candidates))
    for start in range(0, len(private), BLOCK):
        rows = private[start : start + BLOCK]
        nearest = (squares - 2 * rows @ candidates.T).argmin(1)  # |x|^2 is the same for all
        counts += np.bincount(nearest, minlength=len(candidates))
    return counts


def noisy(
    counts: Float64[np.ndarray, " k"], noise_multiplier: float, rng: np.random.Generator
) -> Float64[np.ndarray, " k"]:
    """Return the histogram with its noise; nothing else of it may leave."""
    return counts + rng.normal(0.0, noise_multiplier * SENSITIVITY, counts.shape)
