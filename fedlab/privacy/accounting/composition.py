"""What several releases about the same person come to: one epsilon at a delta.

    1/m^2 = sum_i 1/m_i^2                        Gaussian releases are one Gaussian release, exactly
    L = L_1 + ... + L_n                          sampled ones add as privacy loss distributions, with the former
    R(a) = R_1(a) + ... + R_n(a)                 cohorts of fixed size, and stated curves, add as Renyi curves
    (sum epsilon_i, sum delta_i)                 pure and stated ones add as they are

    epsilon(delta) = sum epsilon_i + epsilon_noise(delta - sum delta_i)

The stated deltas come off first and the noise has what is left. Where distributions and curves meet, either all is
composed as curves, or each half has half of the delta: the smaller of the two is taken, for both hold. Every number
is an upper bound. Releases may depend on what was released before, their noise may not.

Steinke, Composition of Differential Privacy & Privacy Amplification by Subsampling, 2022,
https://arxiv.org/abs/2210.00597. m noise multipliers, a orders.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np

from fedlab.privacy.accounting import privacy_loss as accounting
from fedlab.privacy.accounting.privacy_loss import INTERVALS
from fedlab.privacy.accounting.release import Release
from fedlab.privacy.mechanisms import renyi
from fedlab.privacy.mechanisms.gaussian import epsilon_of
from fedlab.privacy.mechanisms.renyi import ORDERS, Curve

Event = TypeVar("Event")
Counted = tuple[tuple[Event, int], ...]
"""(event, how often) pairs, each event once, sorted."""

FINEST = len(INTERVALS)
"""The level of `Composition.bound` that is stated."""
HOPELESS = 100.0
"""Epsilon above which the cheaper bound stands: a distribution over such losses is large, and no number helps."""
FINE_DELTA = 1e-10
"""Delta below which it stands too: distributions are convolved in float64."""
ROUNDING = 1e-12


@dataclass(frozen=True)
class Composition:
    """All that was released about one person, as far as its cost goes; `+` composes.

    Attributes:
        precision: Sum of 1/m^2 of the Gaussian releases.
        sampled: Events (m, q) of those that saw a Poisson sample.
        cohorts: Events (m, size, of how many) of those that saw a cohort of fixed size.
        curves: Renyi curves that were stated.
        epsilon_added, delta_added: Sums over pure and stated releases.
    """

    precision: float = 0.0
    sampled: Counted[tuple[float, float]] = ()
    cohorts: Counted[tuple[float, int, int]] = ()
    curves: Counted[Curve] = ()
    epsilon_added: float = 0.0
    delta_added: float = 0.0

    @classmethod
    def of(cls, release: Release) -> Composition:
        """Return the composition of one release alone."""
        m, q, steps = release.noise_multiplier, release.sampling_probability, release.steps
        if release.curve is not None:
            return cls(curves=((release.curve, steps),))
        if m is None:
            assert release.epsilon is not None
            return cls(epsilon_added=steps * release.epsilon, delta_added=steps * (release.delta or 0.0))
        if release.cohort is not None and release.cohort[0] < release.cohort[1]:
            return cls(cohorts=(((m, *release.cohort), steps),))
        if q < 1:
            return cls(sampled=(((m, q), steps),))
        return cls(precision=steps / m**2)

    def __add__(self, other: Composition) -> Composition:
        return Composition(
            self.precision + other.precision,
            _merged(self.sampled, other.sampled),
            _merged(self.cohorts, other.cohorts),
            _merged(self.curves, other.curves),
            self.epsilon_added + other.epsilon_added,
            self.delta_added + other.delta_added,
        )

    def epsilon(self, delta: float) -> float:
        """Return the least epsilon that can be stated at a delta in (0, 1); infinity where stated deltas pass it."""
        return self.bound(delta, FINEST)

    def bound(self, delta: float, level: int = 0) -> float:
        """Return an epsilon that can be stated at delta in (0, 1), less tight and much cheaper at a lower level.

        Level 0 composes sampled releases as curves, 1 as coarse distributions, 2 as fine ones.
        """
        noise, left = replace(self, epsilon_added=0.0, delta_added=0.0), delta - self.delta_added
        if noise == Composition():
            return self.epsilon_added if left >= -ROUNDING * delta else math.inf
        if left <= ROUNDING * delta:
            return math.inf
        return self.epsilon_added + _epsilon(noise, left, level)


@lru_cache(maxsize=4096)
def _epsilon(noise: Composition, delta: float, level: int) -> float:
    if not (noise.sampled or noise.cohorts or noise.curves):
        return _closed_form(noise.precision, delta)
    if level and noise.sampled:
        before = _epsilon(noise, delta, level - 1)
        if before > HOPELESS or delta < FINE_DELTA:
            return before
    else:
        before = _curve_epsilon(noise, delta)
    if not noise.precision and (not noise.sampled or not level):
        return before
    if not (noise.cohorts or noise.curves):
        return min(before, _distribution(noise, delta, level))
    curves = replace(noise, precision=0.0, sampled=())
    return min(before, _distribution(noise, delta / 2, level) + _curve_epsilon(curves, delta / 2))


def _distribution(noise: Composition, delta: float, level: int) -> float:
    """Return epsilon of what composes as distributions; infinity at the level that makes none."""
    if not noise.sampled:
        return _closed_form(noise.precision, delta)
    if not level:
        return math.inf
    return accounting.distribution_epsilon(noise.precision, noise.sampled, delta, INTERVALS[level - 1])


def _closed_form(precision: float, delta: float) -> float:
    return epsilon_of(precision**-0.5, delta)


def _curve_epsilon(noise: Composition, delta: float) -> float:
    # Curves of others come at orders of their own; where ours cost nothing, those are tried too.
    cheap = not (noise.sampled or noise.cohorts)
    own = {order for curve, _ in noise.curves for order, _ in curve} if cheap else set()
    orders = sorted(own | set(ORDERS))
    divergences = np.array(orders) * noise.precision / 2
    for (m, q), steps in noise.sampled:
        divergences = divergences + steps * renyi.subsampled(m, q)
    for (m, size, population), steps in noise.cohorts:
        divergences = divergences + steps * accounting.cohort(m, size, population, ORDERS)
    for curve, steps in noise.curves:
        divergences = divergences + steps * renyi.at(curve, orders)
    return renyi.converted(orders, divergences, delta)


def _merged(one: Counted[Event], other: Counted[Event]) -> Counted[Event]:
    if not (one and other):
        return one or other
    return tuple(sorted((Counter(dict(one)) + Counter(dict(other))).items()))


def together(releases: Iterable[Release]) -> Composition:
    """Return the composition of all of these."""
    return sum((Composition.of(release) for release in releases), Composition())
