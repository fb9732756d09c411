"""The distribution nearest to a row of scores: its Euclidean projection onto the simplex.

    p = max(s - t, 0)  with t such that p sums to 1

The order of the classes stays, a row that is a distribution already stays, and no parameter enters.

Duchi et al., ICML 2008, https://doi.org/10.1145/1390156.1390191, figure 1. n rows of c scores.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor


def nearest_distribution(scores: Float64[Tensor, "n c"]) -> Float64[Tensor, "n c"]:
    """Return the nearest point of the simplex to every row; minus infinity becomes 0."""
    largest = scores.sort(dim=1, descending=True).values
    counting = torch.arange(1, scores.shape[1] + 1, dtype=torch.float64, device=scores.device)
    excess = (largest.cumsum(1) - 1) / counting
    # The k largest scores share the excess of their sum over 1; the support is the last k that all survive it.
    support = (largest > excess).sum(1, keepdim=True)
    shares = (scores - excess.gather(1, support - 1)).clamp_(min=0)
    return shares / shares.sum(1, keepdim=True)
