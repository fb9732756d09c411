"""Two activations of one random projection, side by side, so that one Gram matrix holds their products too.

    h = [relu(x B), tanh(x B)]        h'h = [[G_M, H'], [H, G_C]]        B (d0, w), uniform in +-1/sqrt(d0)

In exact mode both halves stand on one fixed-point scale: relu is exact on integers, tanh is read from a table
of correctly rounded integers. The scale follows from the range of x B, which for d0 features in +-limit is
2 to 4 limit: standardise features to about +-1, or the tanh, which never passes 1, gets few levels.

Zhuang et al., DS-AL, AAAI 2024, https://arxiv.org/abs/2403.17503.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab.analytic.expansion import WEIGHT_LEVELS, check_exact, check_map, integer_matrix
from fedlab.stats.arithmetic.fixed_point import FixedPoint

ENTRIES = 2**16
"""Largest table: up to 17 bits it has one entry per level."""


@dataclass(frozen=True)
class DualReLUTanh:
    """h = [relu(x B), tanh(x B)].

    Parameters
    ----------
    width
        w, the number of random projections; d = 2 w.
    seed
        Equal seeds give equal maps on every machine, and the projection of `RandomReLU` with this width.
    """

    width: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        check_map(self.width, self.seed)

    def out_features(self, d0: int) -> int:
        """Return d = 2 w."""
        return 2 * self.width

    def __call__(self, x: Float64[Tensor, "n d0"]) -> Float64[Tensor, "n d"]:
        """Return both activations."""
        d0 = x.shape[1]
        weights = integer_matrix(self.seed, d0, self.width).to(x.device)
        z = x @ (weights / (WEIGHT_LEVELS * math.sqrt(d0)))
        return torch.cat([z.clamp(min=0), z.tanh()], dim=1)

    def integers(
        self, q: Float64[Tensor, "n d0"], fixed: FixedPoint
    ) -> tuple[Float64[Tensor, "n d"], FixedPoint, int]:
        """Return both activations as integers; projections beyond the range are clipped and counted once."""
        d0 = q.shape[1]
        check_exact(d0 * fixed.levels * WEIGHT_LEVELS, d0)
        unit = WEIGHT_LEVELS * math.sqrt(d0)
        shift = math.ceil(math.log2(2 * unit))
        z = q @ integer_matrix(self.seed, d0, self.width).to(q.device)
        size = ((z.abs() + 2.0 ** (shift - 1)) * 2.0**-shift).floor_()
        saturated = int((size > fixed.levels).sum())
        size.clamp_(max=fixed.levels)
        limit = fixed.levels / (fixed.scale * unit) * 2.0**shift
        table, step = _tanh(fixed.levels, limit)
        tanh = table.to(q.device)[(size / step).floor_().to(torch.int64)]
        h = torch.cat([torch.where(z > 0, size, 0.0), torch.where(z > 0, tanh, -tanh)], dim=1)
        return h, FixedPoint(limit, fixed.bits), saturated


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
