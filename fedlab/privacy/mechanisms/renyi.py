"""Renyi curves: divergences at many orders, which add over releases and give epsilon at any delta.

    R(a) = a / (2 m^2)                                                                        a Gaussian release
    R(a) = log( sum_i binom(a, i) (1-q)^(a-i) q^i e^(i(i-1)/(2 m^2)) ) / (a - 1)              of a Poisson sample
    epsilon = min_a  R(a) + log(1 - 1/a) - log(delta a) / (a - 1)

Cheap, and looser than a privacy loss distribution by some per cent: good for saying that a charge is far from its
cap. Mironov, Talwar and Zhang, Renyi Differential Privacy of the Sampled Gaussian Mechanism, 2019,
https://arxiv.org/abs/1908.10530 (integer orders); Canonne, Kamath and Steinke, The Discrete Gaussian for
Differential Privacy, NeurIPS 2020, proposition 12, https://arxiv.org/abs/2004.00010.

m noise multiplier, q sampling probability, a > 1 order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import gammaln, logsumexp, xlogy

Curve = tuple[tuple[float, float], ...]
"""(order, divergence) pairs by rising order."""

ORDERS = (*range(2, 33), 40, 48, 56, 64, 96, 128, 256, 512, 1024)
"""Integer orders that every curve here can be computed at."""


@lru_cache(maxsize=4096)
def subsampled(noise_multiplier: float, sampling_probability: float) -> np.ndarray:
    """Return R at `ORDERS` of one Gaussian release of a Poisson sample with probability q < 1."""
    q, precision = sampling_probability, noise_multiplier**-2
    divergences = []
    for order in ORDERS:
        i = np.arange(order + 1)
        log_binomial = gammaln(order + 1) - gammaln(i + 1) - gammaln(order - i + 1)
        terms = log_binomial + xlogy(i, q) + (order - i) * np.log1p(-q) + i * (i - 1) * precision / 2
        divergences.append(logsumexp(terms) / (order - 1))
    return np.maximum(np.array(divergences, np.float64), 0.0)


def at(curve: Curve, orders: Sequence[float]) -> np.ndarray:
    """Return a curve at other orders, never too small: it rises, so the next order's value bounds it."""
    known, values = np.array(curve, np.float64).T
    place = np.searchsorted(known, np.asarray(orders, np.float64))
    return np.append(values, np.inf)[place]


def converted(orders: Sequence[float], divergences: np.ndarray, delta: float) -> float:
    """Return the least epsilon >= 0 at delta that a curve gives."""
    a = np.asarray(orders, np.float64)
    epsilons = divergences + np.log1p(-1 / a) - np.log(delta * a) / (a - 1)
    return max(0.0, float(epsilons.min()))
