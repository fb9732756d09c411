"""Fixed point: features become small integers, so that sums of their products are exact.

    q = round(clip(x, -limit, limit) * scale),    scale = (2^(bits-1) - 1) / limit

Integers held in float64 multiply without rounding while every partial sum stays below 2^53, on any BLAS, in
any order, on any device. From that one fact follow all of fedlab's bit-exact promises: the statistics do not
depend on who held which sample, and subtracting a client restores the former bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab import checks

EXACT = 2**53
"""Above this magnitude float64 no longer holds every integer."""
WIDEST = 1e100
"""A solve squares the scale: beyond this the square would leave the range of float64."""


@dataclass(frozen=True)
class FixedPoint:
    """A public range and a word length.

    Args:
        limit: Range of the features, clipped to [-limit, limit]: public, chosen per source and never read from the
            data.
        bits: Word length with sign; 2 to 20.
    """

    limit: float = 1.0
    bits: int = 12

    def __post_init__(self) -> None:
        remedy = "give the features' public range"
        checks.number("limit", self.limit, least=1 / WIDEST, most=WIDEST, remedy=remedy)
        checks.integer("bits", self.bits, 2, 20, remedy="12 loses no accuracy in practice")

    @property
    def levels(self) -> int:
        """Largest integer in use."""
        return 2 ** (self.bits - 1) - 1

    @property
    def scale(self) -> float:
        """Integer units per 1.0 of a feature."""
        return self.levels / self.limit

    def encode(self, x: Tensor) -> tuple[Float64[Tensor, "n d"], int]:
        """Return the integers (held in float64) and how many entries fell outside the range."""
        x = x.to(torch.float64)
        saturated = int((x.abs() > self.limit).sum())
        return (x.clamp(-self.limit, self.limit) * self.scale).round(), saturated

    def decode(self, q: Tensor) -> Float64[Tensor, "n d"]:
        """Return the feature values that the integers stand for."""
        return q.to(torch.float64) / self.scale
