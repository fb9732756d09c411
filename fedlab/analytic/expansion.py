"""Seeded random features: every client rebuilds the same map from (seed, shape), so no map is ever sent.

    ReLU   h = relu(x B)                              B (d0, d), uniform in +-1/sqrt(d0)
    RBF    h_j = exp(-|x - c_j|^2 / (2 sigma^2))      c_j uniform in the public box [low, high]^d0

A float product x B changes its last bits with the shape of the batch, so rounding h afterwards would not make
it exact. In exact mode x and B are integers already when they are multiplied; ReLU and a shift are exact on
integers, and the exponential is read from a table of integers.

Zhuang et al., ACIL, NeurIPS 2022 (ReLU); GKEAL, CVPR 2023 (RBF; there with centres from samples, which in a
federation would hand them out).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.stats.arithmetic.fixed_point import EXACT, FixedPoint

WEIGHT_LEVELS = 2**11 - 1
"""Random weights and centres are 12-bit integers in both modes, so that both use the same map."""

Integers = tuple[Float64[Tensor, "n d"], FixedPoint, int]
"""Features as integers, their fixed point, and the number of saturated entries."""


@runtime_checkable
class Expansion(Protocol):
    """A map from backbone features (n, d0) to the features that are learnt from (n, d)."""

    def out_features(self, d0: int) -> int:
        """Return d."""
        ...

    def __call__(self, x: Float64[Tensor, "n d0"]) -> Float64[Tensor, "n d"]:
        """Return the features in float64."""
        ...

    def integers(self, q: Float64[Tensor, "n d0"], fixed: FixedPoint) -> Integers:
        """Return the same of features that are integers."""
        ...


@dataclass(frozen=True)
class Identity:
    """The backbone's features as they are."""

    def out_features(self, d0: int) -> int:
        """Return d = d0."""
        return d0

    def __call__(self, x: Float64[Tensor, "n d0"]) -> Float64[Tensor, "n d0"]:
        """Return x."""
        return x

    def integers(self, q: Float64[Tensor, "n d0"], fixed: FixedPoint) -> Integers:
        """Return q."""
        return q, fixed, 0


@dataclass(frozen=True)
class RandomReLU:
    """h = relu(x B).

    Args:
        width: Number of random features, d.
        seed: Seed of the map: equal seeds give equal maps on every machine.
    """

    width: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        check_map(self.width, self.seed)

    def out_features(self, d0: int) -> int:
        """Return d."""
        return self.width

    def __call__(self, x: Float64[Tensor, "n d0"]) -> Float64[Tensor, "n d"]:
        """Return relu(x B)."""
        return projected(x, self.width, self.seed).clamp_(min=0)

    def integers(self, q: Float64[Tensor, "n d0"], fixed: FixedPoint) -> Integers:
        """Return relu(q B), rounded."""
        return rounded(projected_integers(q, self.width, self.seed, fixed).clamp_(min=0), q.shape[1], fixed)


@dataclass(frozen=True)
class RandomRBF:
    """h_j = exp(-|x - c_j|^2 / (2 sigma^2)).

    Args:
        width: Number of centres, d.
        seed: Seed of the centres, which are equal on every machine.
        sigma: Width of the kernel, in feature units.
        low, high: Box that the centres are drawn from, public.
    """

    width: int = 2048
    seed: int = 0
    sigma: float = 10.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_map(self.width, self.seed)
        checks.number("sigma", self.sigma, least=1e-9, most=1e9, remedy="it is in feature units")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise BadInput(f"expansion: the box [{self.low}, {self.high}] is empty: give low < high")

    def out_features(self, d0: int) -> int:
        """Return d."""
        return self.width

    def __call__(self, x: Float64[Tensor, "n d0"]) -> Float64[Tensor, "n d"]:
        """Return exp(-|x - c_j|^2 / (2 sigma^2))."""
        distances = torch.cdist(x, self._centres(x.shape[1]).to(x.device)).square_()
        return distances.mul_(-0.5 / self.sigma**2).exp_()

    def integers(self, q: Float64[Tensor, "n d0"], fixed: FixedPoint) -> Integers:
        """Read h from a table over |q - c|^2, which is an exact integer."""
        d0 = q.shape[1]
        # Centres outside the range of the features could not be told apart from the border.
        centres, _ = fixed.encode(self._centres(d0))
        centres = centres.to(q.device)
        check_exact(4 * d0 * fixed.levels**2, d0)
        squared = q.square().sum(1, keepdim=True) - 2 * (q @ centres.T) + centres.square().sum(1)
        table, step = _exponentials(fixed.levels, float(self.sigma * fixed.scale))
        index = (squared / step).floor_().clamp_(max=len(table) - 1).to(torch.int64)
        return table.to(q.device)[index], FixedPoint(1.0, fixed.bits), 0

    def _centres(self, d0: int) -> Float64[Tensor, "d d0"]:
        unit = (integer_matrix(self.seed, self.width, d0) / WEIGHT_LEVELS + 1) / 2
        return self.low + (self.high - self.low) * unit


@dataclass(frozen=True)
class SampledRBF(RandomRBF):
    """h_j = exp(-|x - c_j|^2 / (2 sigma^2)) with given centres; for one machine: centres are raw features.

    Build it with `of`. The centres stand in the settings, so two maps are equal where their centres are.
    """

    centres: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def of(cls, x: Float64[Tensor, "n d0"], width: int = 2048, sigma: float = 10.0, seed: int = 0) -> SampledRBF:
        """Draw min(width, n) centres from these samples, without putting back."""
        drawn = np.random.default_rng(seed).permutation(len(x))[:width]
        rows = x[torch.from_numpy(np.sort(drawn)).to(x.device)].cpu().to(torch.float64)
        return cls(len(rows), seed, sigma, centres=tuple(map(tuple, rows.tolist())))

    def _centres(self, d0: int) -> Float64[Tensor, "d d0"]:
        centres = torch.tensor(self.centres, dtype=torch.float64)
        if centres.shape != (self.width, d0):
            raise BadInput(f"there are centres of shape {tuple(centres.shape)}: expected {(self.width, d0)}")
        return centres


def projected(x: Float64[Tensor, "n d0"], width: int, seed: int) -> Float64[Tensor, "n w"]:
    """Return x B with B (d0, w) uniform in +-1/sqrt(d0)."""
    d0 = x.shape[1]
    return x @ (integer_matrix(seed, d0, width).to(x.device) / (WEIGHT_LEVELS * math.sqrt(d0)))


def projected_integers(q: Float64[Tensor, "n d0"], width: int, seed: int, fixed: FixedPoint) -> Float64[Tensor, "n w"]:
    """Return the same of integers, in units of B's integers: exact."""
    d0 = q.shape[1]
    check_exact(d0 * fixed.levels * WEIGHT_LEVELS, d0)
    return q @ integer_matrix(seed, d0, width).to(q.device)


def rounded(z: Float64[Tensor, "n d"], d0: int, fixed: FixedPoint) -> Integers:
    """Return z 2^-s >= 0, rounded and clipped, its fixed point, and how many entries were clipped.

    s is public: it follows from d0 and the word lengths. Inputs fill [-limit, limit], and |x B| rarely passes 2 limit
    (3.5 standard deviations at full scale).
    """
    unit = WEIGHT_LEVELS * math.sqrt(d0)  # integer units per 1.0 of a weight
    shift = math.ceil(math.log2(2 * unit))
    h = ((z + 2.0 ** (shift - 1)) * 2.0**-shift).floor_()
    saturated = int((h > fixed.levels).sum())
    limit = fixed.levels / (fixed.scale * unit) * 2.0**shift
    return h.clamp_(max=fixed.levels), FixedPoint(limit, fixed.bits), saturated


@lru_cache(maxsize=8)
def integer_matrix(seed: int, rows: int, columns: int) -> Float64[Tensor, "rows columns"]:
    """Return whole numbers in +-WEIGHT_LEVELS that follow from (seed, shape) on every machine."""
    generator = np.random.default_rng([seed, rows, columns])
    drawn = generator.integers(-WEIGHT_LEVELS, WEIGHT_LEVELS, size=(rows, columns), endpoint=True)
    return torch.from_numpy(drawn.astype(np.float64))


@lru_cache(maxsize=8)
def _exponentials(levels: int, sigma: float, entries: int = 2**14) -> tuple[Float64[Tensor, " entries"], float]:
    """Return round(levels exp(-t / (2 sigma^2))) over t; dividing by the step, a power of two, is exact."""
    reach = 2 * sigma**2 * math.log(2 * levels)  # beyond it the value rounds to zero
    step = 2.0 ** math.ceil(math.log2(reach / (entries - 1)))
    # Decimal's exp is correctly rounded: the same table on every machine, which no libm promises.
    rate = -Decimal(step) / (2 * Decimal(sigma) ** 2)
    values = [round(levels * (rate * (Decimal(i) + Decimal("0.5"))).exp()) for i in range(entries)]
    values[0] = levels
    return torch.tensor(values, dtype=torch.float64), step


def check_map(width: int, seed: int) -> None:
    """Refuse a width or a seed that cannot be."""
    checks.integer("width", width, least=1, remedy="2048 random features are usual")
    checks.integer("seed", seed, least=0)


def check_exact(largest: int, d0: int) -> None:
    """Refuse a product whose partial sums could pass 2^53."""
    if largest >= EXACT:
        raise BadInput(f"expansion of {d0} features overflows exact arithmetic ({largest:.1e} >= 2^53): lower bits")
