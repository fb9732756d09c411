"""Samples drawn as the moments of a class say, to fill every class to the size of the largest.

    x = mu_y + s sqrt(var_y) N(0, I)        m = n_max - n_y of them in class y, expanded and added with label y

They are drawn at evaluation from the seed and the class alone, in batches, summed and never kept, so a head
weighs rare classes like common ones and no sample is remembered. Without an expansion their average is known
and nothing is drawn: G += m (mu mu' + s^2 diag var), C[:, y] += m mu.

Zhuang et al., AEF-OCL, 2024, https://arxiv.org/abs/2405.17779. d0 backbone features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab import checks
from fedlab.analytic.expansion import Identity
from fedlab.analytic.learner import ROWS, Analytic
from fedlab.stats.gram import GramStats
from fedlab.stats.gram_sum import GramSum
from fedlab.stats.moments import ClassMoments, WithMoments


def balanced(statistics: WithMoments, learner: Analytic, spread: float = 1.0, seed: int = 0) -> GramStats:
    """Return the sums with every seen class filled to the size of the largest.

    Args:
        statistics: Sums and moments of the samples.
        learner: Learner whose expansion and number mode the sums have. Without an expansion the expectation is added,
            and otherwise pseudo-features are drawn.
        spread: Scatter s >= 0: 1 as the samples do, 0 puts all on the mean.
        seed: Seed of the draws; every class has its own stream.
    """
    check_drawing(spread, seed)
    counts = statistics.class_counts.cpu()
    if len(set(counts[counts > 0].tolist())) < 2:
        return statistics.sums
    if isinstance(learner.expansion, Identity):
        return statistics.sums + expectation(statistics.moments, statistics.sums, spread)
    total = GramSum()
    total.add(statistics.sums)
    device = statistics.sums.cross.device
    for y, x in pseudo_features(statistics.moments, spread, seed):
        labels = torch.full((len(x),), y, device=device)
        drawn = learner.observe_sums(x.to(device), labels)
        total.add(replace(drawn, saturated=0))  # what a generator draws is no saturation of the data
    return total.result()


def check_drawing(spread: float, seed: int) -> None:
    """Refuse what pseudo-features cannot be drawn with."""
    checks.number("spread", spread, least=0, remedy="1 scatters as the samples do")
    checks.integer("seed", seed, least=0)


def pseudo_features(
    moments: ClassMoments, spread: float = 1.0, seed: int = 0
) -> Iterator[tuple[int, Float64[Tensor, "m d0"]]]:
    """Yield (class, batch) until every seen class has as many samples as the largest; nothing is kept."""
    counts = moments.counts.cpu().tolist()
    mean, deviation = moments.mean.cpu().numpy(), moments.variance.sqrt().cpu().numpy()
    for y, n in enumerate(counts):
        if n == 0:
            continue
        generator = np.random.default_rng([seed, y])
        left = max(counts) - n
        while left > 0:
            size = min(left, ROWS)
            drawn = generator.standard_normal((size, moments.num_features))
            yield y, torch.from_numpy(mean[y] + spread * deviation[y] * drawn)
            left -= size


def expectation(moments: ClassMoments, like: GramStats, spread: float = 1.0) -> GramStats:
    """Return what all pseudo-features would add on average where features are not expanded.

    In exact mode the sums are rounded to integers.
    """
    counts = moments.counts.cpu()
    missing = torch.where(counts > 0, counts.max() - counts, 0)
    scale = like.scale or 1.0
    m, mean = missing.to(torch.float64).numpy(), moments.mean.cpu().numpy() * scale
    variance = moments.variance.cpu().numpy() * scale**2
    gram = np.zeros((mean.shape[1], mean.shape[1]))
    for y in np.flatnonzero(m):  # products entry by entry: a matrix product's bits depend on the machine
        gram += m[y] * np.multiply.outer(mean[y], mean[y])
    gram[np.diag_indices_from(gram)] += spread**2 * (m[:, None] * variance).sum(0)
    cross = (m[:, None] * mean).T
    kind = torch.float64 if like.scale is None else torch.int64
    if kind == torch.int64:
        gram, cross = gram.round(), cross.round()
    device = like.cross.device
    matrix, target = (torch.from_numpy(part).to(device, kind) for part in (gram, np.ascontiguousarray(cross)))
    return GramStats(target, missing.to(device), like.scale, matrix=matrix)
