"""Diagonal discriminant analysis on the server: class means and one variance a feature.

    m_y = S_y / N_y      v = (q - sum_y N_y m_y^2) / n      u = (1 - s) v + s mean(v)
    W_y = m_y / u        b_y = log (N_y + 1) / (n + c)  -  m_y' W_y / 2

The largest score is the likeliest class of Gaussians with these means, which share the variances u.

S. Dudoit et al., JASA 2002, https://doi.org/10.1198/016214502753479248
n samples, d features, c classes; N (c,), S (c, d) and q (d,) are everybody's counts, sums and squares.
"""

from __future__ import annotations

import numpy as np

from fedlab import checks
from fedlab.method import ArrayRecord, ArraySum, FedlabStrategy, Messages, sum_of, to_record


class Discriminant(FedlabStrategy):
    """Ask every client once for its sums, add them, solve.

    Args:
        shrinkage: Share s in [0, 1] of the mean variance in that of each feature: 0 keeps its own, 1 is nearest class
            mean.

    Raises:
        BadInput: The share lies outside [0, 1].
    """

    streaming = one_round = True  # it walks the replies as they arrive, and learns all there is at once
    rounds_per_step = 1
    partial_sum = ArraySum  # so workers may add the replies of their clients before they are sent

    def __init__(self, shrinkage: float):
        self.shrinkage = checks.share("shrinkage", shrinkage)

    def aggregate_train(self, server_round: int, replies: Messages) -> tuple[ArrayRecord, None]:
        """Return W (d, c) and b (c,) of the sums of all replies."""
        total = sum_of(replies)
        counts, sums, squares = total["counts"], total["sums"], total["squares"]
        n, s = max(counts.sum(), 1), self.shrinkage
        means = sums / counts.clip(1)[:, None]
        variance = (squares - counts @ means**2).clip(0) / n
        variance = (1 - s) * variance + s * variance.mean() + np.finfo(float).eps  # a feature may be constant
        weight = (means / variance).T
        prior = np.log((counts + 1) / (n + len(counts)))  # as if each class had one more: none is impossible
        return to_record({"weight": weight, "bias": prior - (means.T * weight).sum(0) / 2}), None
