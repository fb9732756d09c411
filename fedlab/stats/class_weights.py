"""Weights of classes: a sum in which rare classes count as much as common ones.

    p_y = n_y^-tau / mean over the seen classes of n^-tau         G = sum_y p_y X_y'X_y,  C = sum_y p_y X_y'Y_y

tau = 0 weights every sample alike, tau = 1 every class; a class that nobody holds has no weight. The mean is
over seen classes, not over samples: the ridge is then measured against the same number of classes. In exact
mode a weight is an integer number of units, a power of two fine enough for 17 bits of the smallest weight, so
that weighted sums stay integers and do not depend on who added what.

Fang et al., AIR, 2024, https://arxiv.org/abs/2408.10349 (tau = 1). n_y samples of class y, c classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from fedlab.errors import BadInput
from fedlab.stats.arithmetic.fixed_point import EXACT
from fedlab.stats.arithmetic.product import add_into, check_no_wrap, gram_product

DIGITS = 17
"""Bits of the smallest weight that exact mode keeps: the others have more."""
FINEST = 2**40
"""Finer units would leave no room for the sums in 63 bits."""


@dataclass(frozen=True)
class ClassWeights:
    """One weight per class; 0 for a class that nobody has seen.

    Parameters
    ----------
    values
        p_y >= 0, c of them.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value >= 0 for value in self.values):
            raise BadInput(f"class weights {list(self.values)} must be finite and >= 0")

    @classmethod
    def tempered(cls, counts: Sequence[int], tau: float = 1.0) -> ClassWeights:
        """Return the weights that these counts ask for.

        Parameters
        ----------
        counts
            n_y, of all clients together.
        tau
            0 counts samples, 1 counts classes; 0 <= tau <= 2.
        """
        check_tau(tau)
        seen = np.array([int(n) for n in counts], dtype=np.float64)
        if (seen < 0).any():
            raise BadInput(f"class counts {seen.astype(int).tolist()} must be >= 0")
        if tau == 0 or not seen.any():
            return cls(tuple((seen > 0).astype(float).tolist()))
        raw = np.array([n**-tau if n else 0.0 for n in seen.tolist()])
        return cls(tuple((raw * np.count_nonzero(seen) / raw.sum()).tolist()))

    @property
    def plain(self) -> bool:
        """Whether every class that has a weight has weight 1."""
        return all(value in (0.0, 1.0) for value in self.values)

    @property
    def unit(self) -> int:
        """Integer units per 1.0 of a weight in exact mode: 1 where all weights are whole."""
        given = [value for value in self.values if value]
        if all(value == round(value) for value in given):
            return 1
        unit = 2 ** max(0, DIGITS - math.floor(math.log2(min(given))))
        if unit > FINEST:
            raise BadInput(
                f"class weights from {min(given):.1e} to {max(given):.1e} do not fit exact integers: "
                "lower tau, or use mode=float64"
            )
        return unit

    def factors(self, exact: bool) -> Tensor:
        """Return the weights: (c,) int64 units in exact mode, float64 otherwise."""
        if not exact:
            return torch.tensor(self.values, dtype=torch.float64)
        unit = self.unit
        return torch.tensor([round(value * unit) for value in self.values], dtype=torch.int64)

    def check(self, counts: Tensor) -> None:
        """Refuse samples of a class that has no weight."""
        if len(counts) != len(self.values):
            raise BadInput(f"there are {len(self.values)} class weights for {len(counts)} classes")
        lost = [c for c, n in enumerate(counts.tolist()) if n and not self.values[c]]
        if lost:
            raise BadInput(
                f"{int(counts[lost].sum())} samples of the classes {lost} have no weight: their counts were "
                "not in the sum that the weights were made of; let this client take part in both rounds"
            )


def check_tau(tau: float) -> None:
    """Refuse what is no tempering."""
    if not 0 <= tau <= 2:
        raise BadInput(f"tau={tau} must lie in 0..2: 0 weights every sample alike, 1 every class")


def weighted_gram(x: Float64[Tensor, "n d"], units: Int64[Tensor, " n"]) -> Int64[Tensor, "d d"]:
    """Return X'PX of integers, in int64.

    Rows of like weight go together, as many as one float64 product can take exactly: the more alike the weights
    are, the fewer products. Where one weight alone is too large it multiplies the integer product.
    """
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.int64, device=x.device)
    largest = max(1.0, float(x.abs().max()) ** 2 if x.numel() else 1.0)
    order = units.argsort(stable=True)
    kinds, counts = units.unique(return_counts=True)  # rising
    for group in _groups(kinds.tolist(), counts.tolist(), EXACT / largest):
        size = sum(n for _, n in group)
        rows, order = order[:size], order[size:]
        if len(group) == 1:
            product = scaled(gram_product(x[rows], exact=True), group[0][0])
        else:
            part = x[rows]
            product = ((part * units[rows, None]).T @ part).to(torch.int64)
        check_no_wrap(total, product)
        add_into(total, product)
    return total


def _groups(kinds: list[int], counts: list[int], room: float) -> Iterator[list[tuple[int, int]]]:
    """Yield (weight, rows) together while rows times the largest weight, the last, stay below the room."""
    group: list[tuple[int, int]] = []
    for kind, n in zip(kinds, counts, strict=True):
        if group and (sum(m for _, m in group) + n) * kind >= room:
            yield group
            group = []
        group.append((kind, n))
    if group:
        yield group


def scaled(sums: Tensor, factor: int | float) -> Tensor:
    """Return sums times a weight, refusing a product of integers that would wrap around."""
    if factor == 1:
        return sums
    if sums.dtype == torch.int64:
        largest = int(sums.abs().max()) if sums.numel() else 0
        if largest * abs(factor) > torch.iinfo(torch.int64).max:
            raise BadInput("the weighted sum of exact statistics passes 2^63: lower bits, or lower tau")
    return sums * factor
