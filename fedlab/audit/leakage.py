"""What is public, and what an upload adds to it.

    leaked = (success - chance) / (1 - chance)        chance: the same attack on an upload without the one attacked

A population has a mean, and whoever guesses it is often close; so the yardstick of every attack is what it reaches
where another client stands in the place of the one it is judged by. What an observer holds is a `NoisyGram`: sums,
with the variance of the noise on them, which every mechanism publishes. `reconstruction`, `histogram` and
`membership` are the attacks, `success` judges them, `epsilon` audits a mechanism.

None of this is an upper bound: an attack that fails shows that this attack fails. n samples, d features, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from fedlab.errors import BadInput
from fedlab.privacy.secagg.masks import add_mask
from fedlab.stats import GramStats, NoisyGram, one_hot
from fedlab.stats.serialization.integers import Layout, integers, statistics_of

WORDS = 2.0**64
"""A masked entry is uniform over so many integers."""


@dataclass(frozen=True, eq=False)
class Public:
    """What an attacker knows of the population, from samples that belong to no client.

    Attributes:
        means, covariances: Mean, (c, d), and covariance, (c, d, d), of each class.
        shares: Shares of the classes, (c,).
    """

    means: Float64[Tensor, "c d"]
    covariances: Float64[Tensor, "c d d"]
    shares: Float64[Tensor, " c"]

    @classmethod
    def of(cls, x: Float64[Tensor, "n d"], labels: Int64[Tensor, " n"], num_classes: int) -> Public:
        """Estimate it; a BadInput where a class has no sample."""
        counts = torch.bincount(labels, minlength=num_classes)
        if bool((counts == 0).any()):
            raise BadInput(
                f"classes {(counts == 0).nonzero().flatten().tolist()} have no public sample: an attacker who "
                "knows the population knows every class"
            )
        means = one_hot(labels, num_classes).T @ x / counts[:, None]
        parts = [x[labels == y] - means[y] for y in range(num_classes)]
        covariances = torch.stack([part.T @ part / max(1, len(part)) for part in parts])
        return cls(means, covariances, counts.to(torch.float64) / len(x))

    @cached_property
    def second_moment(self) -> Float64[Tensor, "d d"]:
        """E[xx'], (d, d)."""
        between = torch.einsum("c,ci,cj->ij", self.shares, self.means, self.means)
        return between + torch.einsum("c,cij->ij", self.shares, self.covariances)


def masked(statistics: GramStats | NoisyGram, seed: bytes) -> NoisyGram:
    """Return what a server sees of one client under secure aggregation: words that are uniform modulo 2^64.

    A client adds its own mask and one for each neighbour, of which the server knows none; one is enough. The server
    reads the words as the statistics that they stand for, of a variance that it knows.

    Args:
        statistics: Statistics, exact ones.
        seed: Seed of the mask: 32 secret bytes, used once.

    Raises:
        BadInput: The statistics are not exact.
    """
    sums = NoisyGram(statistics.gram, statistics.cross, statistics.scale)
    words = integers(sums, 1).view(np.uint64).copy()
    add_mask(words, seed)
    seen = statistics_of(words.view(np.int64), Layout.of(sums), 1)
    variance = WORDS**2 / 12
    return NoisyGram(seen.gram.double(), seen.cross.double(), None, variance, variance)
