"""How many, where and how wide: the first two moments of each class, additive like the sums they go with.

    n = n_a + n_b      delta = mu_b - mu_a      mu = mu_a + delta n_b/n      M = M_a + M_b + delta^2 n_a n_b/n

M is the sum of squared deviations, so var = M/n, per coordinate. The textbook E[x^2] - E[x]^2 goes negative on constant
features; this does not, and what rounding leaves after a subtraction is clamped at 0. In exact mode the sums of q and
q^2 are integers and n sum q^2 - (sum q)^2 is formed in integers of any width (it reaches 2^62 at a million samples).

Chan, Golub, LeVeque 1983, The American Statistician 37(3). Zhuang et al., AEF-OCL, 2024,
https://arxiv.org/abs/2405.17779. d0 backbone features, c classes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from fedlab.errors import BadInput
from fedlab.stats.arithmetic.samples import check_features, one_hot
from fedlab.stats.arithmetic.union import check_fits, counts_without, sha256_of
from fedlab.stats.gram import GramStats

ROWS = 4096
"""Integers of 20 bits: sums of as many squares stay exact in float64."""


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """Count, mean and variance of each class, additive.

    Attributes:
        counts: Samples n per class, (c,).
        first: Means, (c, d0); in exact mode the sums of the integers, int64.
        second: Sums of squared deviations, (c, d0); in exact mode the sums of squares, int64.
        scale: Integer units per 1.0 of a feature in exact mode; None in float64.
    """

    counts: Int64[Tensor, " c"]
    first: Tensor
    second: Tensor
    scale: float | None = None

    @classmethod
    def of(cls, x: Tensor, labels: Tensor, num_classes: int, scale: float | None = None) -> ClassMoments:
        """Reduce backbone features, (n, d0), or in exact mode the integers they are encoded as."""
        check_features(x)
        y = one_hot(labels, num_classes).to(x.device)
        x, counts = x.to(torch.float64), y.sum(0)
        if scale is not None:  # integers below 2^53 in every sum of ROWS of them
            pairs = list(zip(y.split(ROWS), x.split(ROWS), strict=True))
            first = sum((a.T @ b).to(torch.int64) for a, b in pairs)
            second = sum((a.T @ b.square()).to(torch.int64) for a, b in pairs)
            return cls(counts.to(torch.int64), torch.as_tensor(first), torch.as_tensor(second), scale)
        mean = (y.T @ x) / counts.clamp(min=1)[:, None] + 0.0  # no -0.0 where there are no samples
        return cls(counts.to(torch.int64), mean, y.T @ (x - mean[labels]).square())

    @property
    def num_features(self) -> int:
        """Return d0."""
        return self.first.shape[1]

    @property
    def num_classes(self) -> int:
        """Return c."""
        return len(self.counts)

    @cached_property
    def mean(self) -> Float64[Tensor, "c d0"]:
        """Means; 0 where there are no samples."""
        if self.scale is None:
            return self.first
        return self.first.to(torch.float64) / (self.counts.clamp(min=1)[:, None] * self.scale)

    @cached_property
    def variance(self) -> Float64[Tensor, "c d0"]:
        """Variances >= 0, per coordinate; 0 where there are no samples."""
        n = self.counts.clamp(min=1)[:, None]
        if self.scale is None:
            return self.second.clamp(min=0) / n
        # Python's integers: n sum q^2 passes 2^63 at 20 bits and some thousand samples.
        count, first, second = (part.cpu().numpy().astype(object) for part in (n, self.first, self.second))
        spread = (count * second - first * first) / (count * count)
        return (torch.from_numpy(spread.astype(np.float64)) / self.scale**2).to(self.first.device)

    @cached_property
    def sha256(self) -> str:
        """Digest of every number."""
        return sha256_of((tuple(self.first.shape), self.scale), [self.counts, self.first, self.second])

    def __add__(self, other: ClassMoments) -> ClassMoments:
        check_fits(self, other)
        counts = self.counts + other.counts
        if self.scale is not None:
            return ClassMoments(counts, self.first + other.first, self.second + other.second, self.scale)
        n = counts.clamp(min=1)[:, None].to(torch.float64)
        delta = other.first - self.first
        mean = self.first + delta * (other.counts[:, None] / n)
        # Where one side has no samples its mean says nothing.
        mean = torch.where(self.counts[:, None] == 0, other.first, mean)
        between = delta.square() * (self.counts[:, None] * (other.counts[:, None] / n))
        return ClassMoments(counts, mean, self.second + other.second + between)

    def __sub__(self, other: ClassMoments) -> ClassMoments:
        check_fits(self, other)
        counts = counts_without(self.counts, other.counts)
        gone = (counts == 0)[:, None]
        if self.scale is not None:
            first, second = self.first - other.first, self.second - other.second
            n, q, squares = (part.cpu().numpy().astype(object) for part in (counts[:, None], first, second))
            if (n * squares < q * q).any() or (squares[counts.cpu().numpy() == 0] != 0).any():
                raise BadInput(
                    "cannot remove these moments: what remains is not of any samples, so they were never "
                    "part of the sum"
                )
            return ClassMoments(counts, first, second, self.scale)
        share = other.counts[:, None] / counts.clamp(min=1)[:, None].to(torch.float64)
        mean = self.first + (self.first - other.first) * share
        n = self.counts.clamp(min=1)[:, None].to(torch.float64)
        weight = counts[:, None] * (other.counts[:, None] / n)
        apart = other.first - mean
        second = self.second - other.second - apart.square() * weight
        # What rounding leaves of nothing is nothing: a deviation is its root, and would be seen.
        size = self.second + weight * apart.abs() * (mean.abs() + other.first.abs())
        noise = (second <= 64 * torch.finfo(torch.float64).eps * size) | (counts <= 1)[:, None]
        second = torch.where(noise, 0.0, second)
        return ClassMoments(counts, torch.where(gone, 0.0, mean), second)


@dataclass(frozen=True, eq=False)
class WithMoments:
    """Ridge statistics of expanded features, and the moments of the same samples before the expansion.

    Attributes:
        sums: Statistics after the expansion.
        moments: Moments before it.
    """

    sums: GramStats
    moments: ClassMoments

    @property
    def num_classes(self) -> int:
        """Return c."""
        return self.sums.num_classes

    @property
    def class_counts(self) -> Int64[Tensor, " c"]:
        """Samples per class, (c,)."""
        return self.sums.class_counts

    @property
    def count(self) -> int:
        """Number of samples n."""
        return self.sums.count

    @property
    def scale(self) -> float | None:
        """Integer units per 1.0 of an expanded feature in exact mode."""
        return self.sums.scale

    @property
    def saturated(self) -> int:
        """Feature entries that lay outside the public range."""
        return self.sums.saturated

    @cached_property
    def sha256(self) -> str:
        """Digest of both digests."""
        return hashlib.sha256((self.sums.sha256 + self.moments.sha256).encode()).hexdigest()

    def __add__(self, other: WithMoments) -> WithMoments:
        return WithMoments(self.sums + other.sums, self.moments + other.moments)

    def __sub__(self, other: WithMoments) -> WithMoments:
        return WithMoments(self.sums - other.sums, self.moments - other.moments)
