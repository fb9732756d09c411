"""Skellam noise: integers, closed under sums, for statistics that many clients noise together.

    N = Poisson(mu/2) - Poisson(mu/2)        variance mu;  the sum of k with mu/k each is one with mu

so each of k clients adds its share to what it masks, and the sum that the server unmasks carries the whole. Its
Renyi divergence to its shift by an integer vector of norms |v|_1, |v|_2 is bounded, for integer orders a > 1, by

    eps(a) <= a |v|_2^2 / (2 mu) + min( ((2a - 1) |v|_2^2 + 6 |v|_1) / (4 mu^2),  3 |v|_1 / (2 mu) )

The first term is the Gaussian's; the second vanishes as the grid becomes fine. Coordinates of different variance
add their bounds. (eps, delta) then follows by Canonne, Kamath and Steinke 2020, proposition 12,
https://arxiv.org/abs/2004.00010.

Agarwal, Kairouz and Liu, The Skellam Mechanism for Differentially Private Federated Learning, NeurIPS 2021,
theorem 3.5, https://arxiv.org/abs/2110.04995. The tests compute the divergence itself from the two probability
mass functions, and its delta by dp-accounting's privacy loss distributions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedlab.errors import BadInput
from fedlab.privacy.mechanisms.gaussian import check_budget
from fedlab.privacy.mechanisms.renyi import Curve, converted

ORDERS = np.unique(np.concatenate([np.arange(2, 65), np.geomspace(64, 1e5, 200).astype(np.int64)]))
"""Renyi orders that are tried; the bound holds for integers."""
FINEST = 2.0**50
"""Variance up to which Poisson numbers are drawn to the unit: they are computed in float64."""


@dataclass(frozen=True)
class Block:
    """Coordinates that are noised alike.

    Attributes:
        l2, l1: Norms of the largest change by a neighbour, in integer units.
        variance: Variance mu of the noise, in integer units squared.
    """

    l2: float
    l1: float
    variance: float


@dataclass(frozen=True)
class Shift:
    """What a neighbour may change, over all coordinates.

    Attributes:
        ratio: Charge of a Gaussian, sum_i v_i^2 / mu_i.
        blocks: Blocks for the rest of the bound; the norms of each may be as large as the whole.
    """

    ratio: float
    blocks: Sequence[Block]

    def under(self, factor: float) -> Shift:
        """Return the same shift under this many times the variance."""
        blocks = [Block(block.l2, block.l1, block.variance * factor) for block in self.blocks]
        return Shift(self.ratio / factor, blocks)


def renyi_epsilon(order: int, shift: Shift) -> float:
    """Return the bound on the Renyi divergence of this integer order > 1."""
    total = order * shift.ratio / 2
    for block in shift.blocks:
        mu = block.variance
        fine = ((2 * order - 1) * block.l2**2 + 6 * block.l1) / (4 * mu * mu)
        total += min(fine, 3 * block.l1 / (2 * mu))
    return total


def curve(shift: Shift) -> Curve:
    """Return the bound at `ORDERS`, as a release states it."""
    return tuple((float(order), renyi_epsilon(int(order), shift)) for order in ORDERS)


def epsilon_of(shift: Shift, delta: float) -> float:
    """Return an epsilon that one release keeps at this delta."""
    check_budget(1.0, delta)
    return converted(ORDERS.tolist(), np.array([value for _, value in curve(shift)]), delta)


def calibrated(epsilon: float, delta: float, shift: Shift) -> float:
    """Return the smallest factor on the variances that keeps (epsilon, delta).

    Raises:
        BadInput: `epsilon` or `delta` is out of range, or no noise keeps them.
    """
    check_budget(epsilon, delta)
    low, high = 2.0**-40, 2.0**60
    if epsilon_of(shift.under(high), delta) > epsilon or epsilon_of(shift.under(low), delta) <= epsilon:
        raise BadInput(f"epsilon={epsilon}, delta={delta}: no common amount of Skellam noise keeps this")
    while high / low > 1 + 1e-9:
        middle = math.sqrt(low * high)
        kept = epsilon_of(shift.under(middle), delta) <= epsilon
        low, high = (low, middle) if kept else (middle, high)
    return high


def skellam(variance: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return int64 noise of this variance.

    Raises:
        BadInput: The variance is not positive, or too large to draw integers exactly.
    """
    if not 0 < variance <= FINEST:
        raise BadInput(
            f"Skellam noise of variance {variance:g} lies outside (0, {FINEST:g}] integer units: lower bits (8 are "
            "enough under noise)"
        )
    return rng.poisson(variance / 2, shape) - rng.poisson(variance / 2, shape)
