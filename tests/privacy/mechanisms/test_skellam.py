"""The Renyi bound of Skellam noise lies above the divergence itself, and its (eps, delta) above dp-accounting's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_distribution import from_two_probability_mass_functions
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon
from scipy.stats import skellam as distribution

from fedlab.errors import BadInput
from fedlab.privacy.mechanisms.gaussian import multiplier
from fedlab.privacy.mechanisms.skellam import Block, Shift, calibrated, epsilon_of, renyi_epsilon, skellam


def shift_of(block: Block) -> Shift:
    """The shift of coordinates that are all noised alike."""
    return Shift(block.l2**2 / block.variance, [block])


CASES = [(2, 1), (4, 1), (4, 3), (10, 5), (60, 7), (400, 30), (2000, 40)]


def log_masses(variance: float, shift: int) -> tuple[np.ndarray, np.ndarray]:
    reach = int(14 * math.sqrt(variance) + shift + 40)
    n = np.arange(-reach, reach + 1)
    p = distribution.logpmf(n, variance / 2, variance / 2)
    q = distribution.logpmf(n - shift, variance / 2, variance / 2)
    kept = np.isfinite(p) & np.isfinite(q)
    return p[kept], q[kept]


@pytest.mark.parametrize(("variance", "shift"), CASES)
def test_bound_is_above_the_divergence_itself(variance: float, shift: int):
    """From the two mass functions, for every order; and close to it where the grid is fine."""
    p, q = log_masses(variance, shift)
    for order in (2, 3, 4, 8, 16, 32):
        exact = np.logaddexp.reduce(order * p - (order - 1) * q) / (order - 1)
        bound = renyi_epsilon(order, shift_of(Block(shift, shift, variance)))
        assert exact <= bound * (1 + 1e-9)
        if variance >= 400 and order <= 4:
            assert bound <= 1.02 * exact


@pytest.mark.parametrize(("variance", "shift"), [(60, 7), (400, 30), (2000, 40), (2000, 5)])
def test_epsilon_is_above_that_of_the_loss_distribution(variance: float, shift: int):
    """dp-accounting composes the mass functions themselves: the second implementation, without any bound."""
    n = np.arange(-int(14 * math.sqrt(variance) + shift + 40), int(14 * math.sqrt(variance) + shift + 40))
    p = {int(i): float(v) for i, v in zip(n, distribution.logpmf(n, variance / 2, variance / 2), strict=True)}
    q = {int(i): float(v) for i, v in zip(n, distribution.logpmf(n - shift, variance / 2, variance / 2), strict=True)}
    p, q = ({i: v for i, v in side.items() if np.isfinite(v)} for side in (p, q))
    pld = from_two_probability_mass_functions(p, q, value_discretization_interval=1e-3)
    ours = epsilon_of(shift_of(Block(shift, shift, variance)), 1e-5)
    theirs = pld.get_epsilon_for_delta(1e-5)
    assert theirs <= ours + 2e-3
    assert ours <= 1.25 * theirs + 0.1  # a Renyi bound is never far above


def test_conversion_agrees_with_dp_accounting():
    """Their conversion to (eps, delta) of the same divergences; ours is over more orders, so never above."""
    shift = shift_of(Block(30, 30, 400.0))
    orders = [2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64]
    theirs, _ = compute_epsilon(orders, [renyi_epsilon(a, shift) for a in orders], 1e-5)
    assert epsilon_of(shift, 1e-5) <= theirs + 1e-12
    assert epsilon_of(shift, 1e-5) == pytest.approx(theirs, rel=0.02)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 8.0])
def test_calibrated_noise_keeps_the_budget_and_is_near_the_gaussians(epsilon: float):
    block = Block(1e4, 1e6, 1e8)
    factor = calibrated(epsilon, 1e-5, shift_of(block))
    assert epsilon_of(shift_of(block).under(factor), 1e-5) <= epsilon
    assert epsilon_of(shift_of(block).under(factor * (1 - 1e-4)), 1e-5) > epsilon
    assert 1.0 < math.sqrt(factor) / multiplier(epsilon, 1e-5) < 1.12


def test_draws_have_the_variance_and_shares_add_up():
    """100,000 draws: variance within 5 standard errors; four shares of a quarter have the whole's distribution."""
    rng = np.random.default_rng(0)
    whole = skellam(64.0, (100_000,), rng)
    shares = sum(skellam(16.0, (100_000,), rng) for _ in range(4))
    for draws in (whole, shares):
        assert draws.dtype == np.int64
        assert draws.var() == pytest.approx(64.0, rel=5 * math.sqrt(2 / 100_000))
        counts = np.bincount(draws[np.abs(draws) <= 20] + 20, minlength=41)
        expected = 100_000 * distribution.pmf(np.arange(-20, 21), 32, 32)
        chi2 = float(((counts - expected) ** 2 / expected).sum())
        assert chi2 < 41 + 5 * math.sqrt(82)  # 5 standard deviations of chi-square with 41 degrees of freedom


@pytest.mark.parametrize("variance", [0.0, -1.0, 2.0**60, math.nan])
def test_variance_must_suit_integers(variance: float):
    with pytest.raises(BadInput, match="lower bits"):
        skellam(variance, (3,), np.random.default_rng(0))


def test_no_noise_keeps_an_impossible_budget():
    with pytest.raises(BadInput, match="Skellam"):
        calibrated(1e-30, 1e-300, shift_of(Block(1e6, 1e12, 1.0)))
