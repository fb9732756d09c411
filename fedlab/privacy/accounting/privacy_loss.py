"""What Google's dp_accounting computes for the ledger: privacy loss distributions, and cohorts of fixed size.

A privacy loss distribution is discretised so that each of its deltas is an upper bound ('connect the dots'), and
the mass it cuts off counts as lost; a finer grid only lowers epsilon.

Doroshenko et al., Connect the Dots: Tighter Discrete Approximations of Privacy Loss Distributions, PoPETs 2022,
https://arxiv.org/abs/2207.04380; Wang, Balle and Kasiviswanathan, Subsampled Renyi Differential Privacy and
Analytical Moments Accountant, AISTATS 2019, theorem 27, https://arxiv.org/abs/1808.00087.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import Any

import numpy as np

from fedlab.privacy.libraries import part

INTERVALS = (3e-3, 3e-4)
"""Steps of the discretised privacy loss, coarse and fine: over a thousand steps of DP-SGD the former says some 0.3 %
too much, the latter 0.003 %, in a tenth of the time and in all of it."""


def distribution_epsilon(
    precision: float, sampled: Sequence[tuple[tuple[float, float], int]], delta: float, interval: float
) -> float:
    """Return epsilon at delta of Gaussian releases, of which some saw Poisson samples, composed as distributions.

    Args:
        precision: Sum of 1/m^2 over the releases that saw everyone; 0 for none.
        sampled: Others, ((m, q), how often), at least one.
        delta: Delta in (0, 1).
        interval: Step of the discretisation.
    """
    losses = [_gaussian(m, q, interval).self_compose(steps) for (m, q), steps in sampled]
    if precision:
        losses.append(_gaussian(precision**-0.5, 1.0, interval))
    return float(reduce(lambda one, other: one.compose(other), losses).get_epsilon_for_delta(delta))


@lru_cache(maxsize=256)
def cohort(noise_multiplier: float, size: int, population: int, orders: Sequence[int]) -> np.ndarray:
    """Return the Renyi curve of one Gaussian release of a cohort drawn without replacement, one being replaced.

    Args:
        noise_multiplier: Standard deviation over the distance that a replacement can move the sum. dp_accounting's
            own documentation divides by the norm of one contribution, half of that.
        size, population: Number of those drawn, and of those they are drawn from.
        orders: Orders, integers > 1.
    """
    events = part("dp_accounting", "dp_event")
    replaced = part("dp_accounting", "NeighboringRelation").REPLACE_ONE
    accountant = part("dp_accounting.rdp", "RdpAccountant")(orders, replaced)
    gaussian = events.GaussianDpEvent(noise_multiplier)
    accountant.compose(events.SampledWithoutReplacementDpEvent(population, size, gaussian))
    return np.array(accountant._rdp)  # the library has no other way to add curves later


@lru_cache(maxsize=64)
def _gaussian(noise_multiplier: float, q: float, interval: float) -> Any:
    make = part("dp_accounting.pld", "privacy_loss_distribution").from_gaussian_mechanism
    return make(noise_multiplier, sampling_prob=q, value_discretization_interval=interval)
