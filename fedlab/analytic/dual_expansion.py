"""Two activations of one random projection, side by side, so that one Gram matrix holds their products too.

    h = [relu(x B), tanh(x B)]        h'h = [[G_M, H'], [H, G_C]]        B (d0, w), uniform in +-1/sqrt(d0)

In exact mode both halves stand on one fixed-point scale: relu is exact on integers, tanh is read from a table
of correctly rounded integers. The scale follows from the range of x B, which for d0 features in +-limit is
2 to 4 limit: standardise features to about +-1, or the tanh, which never passes 1, gets few levels.

Zhuang et al., DS-AL, AAAI 2024, https://arxiv.org/abs/2403.17503.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab.analytic.expansion import Integers, RandomReLU, projected, projected_integers, rounded
from fedlab.stats.arithmetic.fixed_point import FixedPoint

ENTRIES = 2**16
"""Largest table: up to 17 bits it has one entry per level."""


@dataclass(frozen=True)
class DualReLUTanh(RandomReLU):
    """h = [relu(x B), tanh(x B)].

    Args:
        width: Number of random projections, w; d = 2 w.
        seed: Seed of the map: equal on every machine, and the projection of `RandomReLU` with this width.
    """

    def out_features(self, d0: int) -> int:
        """Return d = 2 w."""
        return 2 * self.width

    def __call__(self, x: Float64[Tensor, "n d0"]) -> Float64[Tensor, "n d"]:
        """Return both activations."""
        z = projected(x, self.width, self.seed)
        return torch.cat([z.clamp(min=0), z.tanh()], dim=1)

    def integers(self, q: Float64[Tensor, "n d0"], fixed: FixedPoint) -> Integers:
        """Return both activations as integers; projections beyond the range are clipped and counted once."""
        z = projected_integers(q, self.width, self.seed, fixed)
        size, after, saturated = rounded(z.abs(), q.shape[1], fixed)
        table, step = _tanh(fixed.levels, after.limit)
        tanh = table.to(q.device)[(size / step).floor_().to(torch.int64)]
        h = torch.cat([torch.where(z > 0, size, 0.0), torch.where(z > 0, tanh, -tanh)], dim=1)
        return h, after, saturated


@lru_cache(maxsize=8)
def _tanh(levels: int, limit: float) -> tuple[Float64[Tensor, " entries"], int]:
    """Return round(tanh(t) levels / limit) over t in levels of [0, limit], and the levels per entry."""
    step = max(1, (levels + 1) // ENTRIES)
    unit = Decimal(limit) / levels
    # Decimal's exp is correctly rounded: the same table on every machine, which no libm promises.
    middles = (unit * (Decimal(i) * step + Decimal(step - 1) / 2) for i in range(levels // step + 1))
    powers = ((2 * min(t, Decimal(50))).exp() for t in middles)
    values = [round((power - 1) / (power + 1) / unit) for power in powers]
    return torch.tensor(values, dtype=torch.float64), step
