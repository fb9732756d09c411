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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlab import checks
from fedlab.errors import BadInput

DIGITS = 17
"""Bits of the smallest weight that exact mode keeps: the others have more."""
FINEST = 2**40
"""Finer units would leave no room for the sums in 63 bits."""


@dataclass(frozen=True)
class ClassWeights:
    """One weight per class; 0 for a class that nobody has seen.

    Args:
        values: Weights p_y >= 0, c of them.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value >= 0 for value in self.values):
            raise BadInput(f"class weights {list(self.values)} must be finite and >= 0")

    @classmethod
    def tempered(cls, counts: Sequence[int], tau: float = 1.0) -> ClassWeights:
        """Return the weights that these counts ask for.

        Args:
            counts: Samples n_y per class, of all clients together.
            tau: Tempering in 0..2: 0 counts samples, 1 counts classes.
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
        weights = [value for value in self.values if value]
        if all(value == round(value) for value in weights):
            return 1
        unit = 2 ** max(0, DIGITS - math.floor(math.log2(min(weights))))
        if unit > FINEST:
            raise BadInput(
                f"class weights from {min(weights):.1e} to {max(weights):.1e} do not fit exact integers: "
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
    checks.number("tau", tau, least=0, most=2, remedy="0 weights every sample alike, 1 every class")


def combined(mine: tuple[int, float] | None, theirs: tuple[int, float] | None, sign: int) -> tuple[int, float] | None:
    """Return the weighting of a sum, or of a difference."""
    if mine is None or theirs is None:
        return None
    return mine[0], max(0.0, mine[1] + sign * theirs[1])
