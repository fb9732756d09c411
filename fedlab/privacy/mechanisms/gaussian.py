"""The Gaussian mechanism, calibrated exactly: how much noise (epsilon, delta) takes, and the reverse.

    delta(eps; m) = Phi(1/(2m) - eps m) - e^eps Phi(-1/(2m) - eps m),        standard deviation = m * sensitivity

holds with equality for one release of any dimension, so the smallest m with delta(eps; m) <= delta is the least
noise there is. The classical sqrt(2 ln(1.25/delta))/eps is wasteful below eps = 8 and wrong above 1.

Balle and Wang, Improving the Gaussian Mechanism, ICML 2018, theorem 8, https://arxiv.org/abs/1805.06530.
m is the noise multiplier: standard deviations per unit of L2 sensitivity.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from fedlab import checks
from fedlab.errors import BadInput

LEAST, MOST = 1e-4, 1e7
"""Noise multipliers between which the least is looked for."""


def delta_of(noise_multiplier: float, epsilon: float) -> float:
    """Return the smallest delta that one release keeps at this epsilon >= 0."""
    m = check_multiplier(noise_multiplier)
    upper, lower = 1 / (2 * m) - epsilon * m, -1 / (2 * m) - epsilon * m
    # In the tail both terms are nearly equal: as logarithms they can still be subtracted.
    larger, smaller = float(log_ndtr(upper)), epsilon + float(log_ndtr(lower))
    if upper > 0:
        return float(ndtr(upper) - math.exp(min(smaller, 0.0)))
    return math.exp(larger) * -math.expm1(min(smaller - larger, 0.0))


def multiplier(epsilon: float, delta: float) -> float:
    """Return the smallest noise multiplier m that keeps (epsilon, delta).

    Raises:
        BadInput: `epsilon` is not > 0, or `delta` not in (0, 1); or the two are beyond all noise or none.
    """
    check_budget(epsilon, delta)
    if delta_of(MOST, epsilon) > delta or delta_of(LEAST, epsilon) < delta:
        raise BadInput(
            f"epsilon={epsilon}, delta={delta}: the noise multiplier lies outside {LEAST:g}..{MOST:g}; give a "
            "budget of common size, such as epsilon=1 delta=1e-5"
        )
    root = _root(lambda log_m: delta_of(math.exp(log_m), epsilon) - delta, math.log(LEAST), math.log(MOST))
    m = math.exp(root)
    while delta_of(m, epsilon) > delta:  # the root may lie on the wrong side by its last bits
        m = float(np.nextafter(m * (1 + 1e-12), np.inf))
    return m


def epsilon_of(noise_multiplier: float, delta: float) -> float:
    """Return the smallest epsilon >= 0 that one release keeps at this delta.

    Raises:
        BadInput: The multiplier is not > 0, or `delta` not in (0, 1).
    """
    m = check_multiplier(noise_multiplier)
    check_budget(1.0, delta)
    if delta_of(m, 0.0) <= delta:
        return 0.0
    most = 1.0
    while delta_of(m, most) > delta:
        most *= 2
    epsilon = _root(lambda e: delta_of(m, e) - delta, 0.0, most)
    while delta_of(m, epsilon) > delta:
        epsilon = float(np.nextafter(epsilon * (1 + 1e-12), np.inf))
    return epsilon


def check_budget(epsilon: float, delta: float) -> None:
    """Refuse an epsilon that is not > 0, or a delta outside (0, 1)."""
    checks.number("epsilon", epsilon, above=0, remedy="1 is strong, 8 is weak")
    checks.number("delta", delta, above=0, below=1, remedy="well below one over the number of samples, 1e-5")


def check_multiplier(noise_multiplier: float) -> float:
    """Return a noise multiplier that is one."""
    return float(checks.number("noise_multiplier", noise_multiplier, above=0))


def _root(function: object, low: float, high: float) -> float:
    root = brentq(function, low, high, xtol=1e-14, rtol=1e-14, maxiter=500)  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert isinstance(root, float)
    return root
