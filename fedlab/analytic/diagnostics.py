"""What a reader must know before trusting a head: how it was solved, and from which features."""

from __future__ import annotations

import torch

from fedlab.stats.arithmetic.solve import Solution
from fedlab.stats.gram import GramStats

SATURATION = 0.01
"""Share of clipped entries above which the user is warned."""


def diagnostics(statistics: GramStats, solution: Solution) -> list[str]:
    """Return the diagnostics of a head, a sentence each; none where all is well.

    Args:
        statistics: Statistics that the head was solved from.
        solution: Solution with the head.
    """
    sentences = [solution.diagnostic] if solution.diagnostic else []
    entries = max(1, statistics.count * statistics.num_features)
    if statistics.saturated > SATURATION * entries:
        sentences.append(
            f"{statistics.saturated / entries:.1%} of the features lay outside the public range and were "
            "clipped: raise features.limit"
        )
    # In integer units, of a sample that counts once: below one, most features were rounded to zero.
    squares = float(statistics.gram.diagonal().to(torch.float64).sum()) / (statistics.weight_unit or 1)
    if statistics.scale is not None and squares < entries:
        sentences.append(
            "the features are smaller than one step of the fixed point and were rounded away: lower "
            "features.limit to their range (raise sigma, for RBF features), or raise analytic.bits"
        )
    return sentences
