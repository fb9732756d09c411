"""Fewer features before noise: its norm grows with their number, the signal does not.

    h = x P        P (d0, d): the leading eigenvectors of public rows, or random directions of equal length

P must come from a seed or from rows that are declared public: directions found in the private ones are a release.
Random directions keep lengths on average (factor sqrt(d0/d)); rows are clipped after them.

d0 features before, d after.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab import checks
from fedlab.stats.arithmetic.solve import one_thread


def principal(public: Tensor, width: int) -> Float64[Tensor, "d0 d"]:
    """Return the directions in which public rows have most energy, not centred: a head has no intercept.

    Args:
        public: Rows that may be looked at, (p, d0).
        width: Number of directions d <= d0, and <= p: rows do not span more.

    Raises:
        BadInput: More directions are asked for than there are.
    """
    rows = public.to(torch.float64)
    remedy = f"there are {len(rows)} public rows of {rows.shape[1]} features"
    checks.integer("width", width, 1, min(rows.shape), remedy)
    with one_thread():
        _, vectors = torch.linalg.eigh(rows.T @ rows)
    return vectors[:, -width:].flip(1).contiguous()


def random_directions(d0: int, width: int, rng: np.random.Generator) -> Float64[Tensor, "d0 d"]:
    """Return orthogonal random directions, each sqrt(d0/d) long; a BadInput where there are not so many."""
    checks.integer("width", width, 1, d0)
    directions, triangle = np.linalg.qr(rng.standard_normal((d0, width)))
    directions *= np.sign(np.diag(triangle))  # without it, QR prefers some rotations
    return torch.from_numpy(directions * math.sqrt(d0 / width))
