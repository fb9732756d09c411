"""The calibrated Gaussian agrees with dp-accounting, and with its own inverse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld import common
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.errors import BadInput
from fedlab.privacy.accounting.composition import Composition
from fedlab.privacy.accounting.release import Release
from fedlab.privacy.mechanisms.gaussian import delta_of, epsilon_of, multiplier


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 3.0, 8.0, 10.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
def test_noise_agrees_with_dp_accounting(epsilon: float, delta: float):
    """To 1e-3, as asked; to 1e-6 as it is: theirs is a binary search."""
    theirs = GaussianPrivacyLoss.from_privacy_guarantee(
        common.DifferentialPrivacyParameters(epsilon, delta), 1.0
    ).standard_deviation
    assert multiplier(epsilon, delta) == pytest.approx(theirs, rel=1e-6)


def test_epsilon_agrees_with_their_loss_distribution():
    """Their discretisation is pessimistic by up to 1e-3 here: ours must not be above, nor far below."""
    for m in (0.6, 1.0, 4.0):
        theirs = from_gaussian_mechanism(m, value_discretization_interval=1e-4).get_epsilon_for_delta(1e-5)
        assert theirs - 2e-3 <= epsilon_of(m, 1e-5) <= theirs + 1e-9


@given(st.floats(0.05, 30.0), st.floats(1e-12, 0.1))
@settings(max_examples=100, deadline=None)
def test_there_and_back(epsilon: float, delta: float):
    m = multiplier(epsilon, delta)
    assert delta_of(m, epsilon) <= delta
    assert delta_of(m * (1 - 1e-6), epsilon) > delta  # no less noise would do
    assert epsilon_of(m, delta) == pytest.approx(epsilon, rel=1e-6)


def test_delta_in_the_far_tail():
    """Where the two terms agree in 12 digits: against their difference in 60."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        m, e = mpmath.mpf(20), mpmath.mpf(1) / 2
        exact = mpmath.ncdf(1 / (2 * m) - e * m) - mpmath.exp(e) * mpmath.ncdf(-1 / (2 * m) - e * m)
    assert delta_of(20.0, 0.5) == pytest.approx(float(exact), rel=1e-9)


def test_many_releases_are_one():
    """k releases of multiplier m say what one of m / sqrt(k) says: by their composed loss distributions."""
    composed = Composition.of(Release("four", "four", "gaussian", noise_multiplier=4.0, steps=4))
    assert composed.precision**-0.5 == pytest.approx(2.0)
    pld = from_gaussian_mechanism(4.0, value_discretization_interval=1e-3)
    theirs = pld.self_compose(4).get_epsilon_for_delta(1e-5)
    assert composed.epsilon(1e-5) == pytest.approx(theirs, abs=5e-3)


@pytest.mark.parametrize(
    ("epsilon", "delta", "said"),
    [
        (0.0, 1e-5, "epsilon=0.0"),
        (-1.0, 1e-5, "epsilon=-1.0"),
        (math.nan, 1e-5, "epsilon=nan"),
        (1.0, 0.0, "delta=0.0"),
        (1.0, 1.0, "delta=1.0"),
        (1.0, -1e-5, "delta=-1e-05"),
        (1e-12, 1e-12, "multiplier lies outside"),
    ],
)
def test_no_budget(epsilon: float, delta: float, said: str):
    with pytest.raises(BadInput, match=said):
        multiplier(epsilon, delta)


@pytest.mark.parametrize("m", [0.0, -1.0, np.nan, np.inf])
def test_no_multiplier(m: float):
    with pytest.raises(BadInput, match="noise_multiplier"):
        epsilon_of(m, 1e-5)
