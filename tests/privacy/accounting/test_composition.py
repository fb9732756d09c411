"""Composition: against dp_accounting, against the densities themselves, and what every bound must obey."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation
from dp_accounting.rdp import rdp_privacy_accountant as rdp
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.privacy.accounting import privacy_loss as accounting
from fedlab.privacy.accounting.composition import FINEST, Composition, together
from fedlab.privacy.accounting.release import Release
from fedlab.privacy.mechanisms import renyi
from fedlab.privacy.mechanisms.gaussian import epsilon_of

DELTA = 1e-5


def gaussian(m: float, steps: int = 1) -> Composition:
    return Composition.of(Release("id", "l", "gaussian", noise_multiplier=m, steps=steps))


def sampled(m: float, q: float, steps: int) -> Composition:
    kind = "subsampled_gaussian"
    return Composition.of(Release("id", "l", kind, noise_multiplier=m, sampling_probability=q, steps=steps))


def cohort(m: float, size: int, population: int, steps: int = 1) -> Composition:
    kind, terms = "cohort_gaussian", {"relation": "replace_one", "steps": steps}
    return Composition.of(Release("id", "l", kind, noise_multiplier=m, cohort=(size, population), **terms))


def curve(*pairs: tuple[float, float]) -> Composition:
    return Composition.of(Release("id", "l", "renyi", curve=pairs))


def stated(epsilon: float, delta: float = 0.0) -> Composition:
    return Composition.of(Release("id", "l", "stated", epsilon=epsilon, delta=delta))


@pytest.mark.parametrize("multipliers", [[0.6], [3.73], [4.0, 5.0, 6.0], [10.0] * 20])
def test_gaussians_are_one_gaussian(multipliers):
    theirs = PLDAccountant()
    for m in multipliers:
        theirs.compose(dp_event.GaussianDpEvent(m))
    ours = sum((gaussian(m) for m in multipliers), Composition()).epsilon(DELTA)
    assert ours == pytest.approx(theirs.get_epsilon(DELTA), rel=1e-3)


def test_replacing_one_costs_what_its_own_sensitivity_says():
    # Their multiplier is per norm of one contribution, of which a replacement moves the sum by two.
    theirs = PLDAccountant(NeighboringRelation.REPLACE_ONE)
    theirs.compose(dp_event.GaussianDpEvent(2 * 3.0))
    release = Release("id", "l", "gaussian", noise_multiplier=3.0, relation="replace_one")
    assert Composition.of(release).epsilon(DELTA) == pytest.approx(theirs.get_epsilon(DELTA), rel=1e-3)


@pytest.mark.parametrize(("m", "q", "steps"), [(1.0, 0.01, 1000), (0.7, 0.05, 10)])
def test_sampled_gaussians_compose_as_distributions_and_never_below_the_library(m, q, steps):
    theirs = PLDAccountant()
    theirs.compose(dp_event.PoissonSampledDpEvent(q, dp_event.GaussianDpEvent(m)), steps)
    theirs.compose(dp_event.GaussianDpEvent(5.0), 2)
    both = sampled(m, q, steps) + gaussian(5.0, 2)
    cheap, coarse, fine = (both.bound(DELTA, level) for level in range(FINEST + 1))
    assert cheap > coarse > fine == both.epsilon(DELTA)
    assert theirs.get_epsilon(DELTA) * (1 - 1e-9) < fine < theirs.get_epsilon(DELTA) * 1.001


@pytest.mark.parametrize(("m", "q"), [(1.0, 0.1), (0.5, 0.5)])
def test_the_densities_themselves_agree(m, q):
    epsilon, delta = sampled(m, q, 1).epsilon(1e-3), 1e-3
    x = np.linspace(-15 * m, 1 + 15 * m, 400_001)
    without, here = (np.exp(-((x - at) ** 2) / (2 * m * m)) / (m * math.sqrt(2 * math.pi)) for at in (0.0, 1.0))
    mixed = (1 - q) * without + q * here
    pairs = [(mixed, without), (without, mixed)]
    gaps = [np.trapezoid(np.maximum(one - math.exp(epsilon) * other, 0), x) for one, other in pairs]
    assert 0.99 * delta < max(gaps) < delta * (1 + 1e-6)


def test_renyi_curves_are_those_of_the_library():
    accountant = rdp.RdpAccountant(renyi.ORDERS)
    accountant.compose(dp_event.PoissonSampledDpEvent(0.02, dp_event.GaussianDpEvent(1.3)))
    ours = renyi.subsampled(1.3, 0.02)
    np.testing.assert_allclose(ours, accountant._rdp, rtol=1e-6, atol=1e-12)
    theirs = rdp.compute_epsilon(renyi.ORDERS, 100 * ours, DELTA)[0]
    assert renyi.converted(renyi.ORDERS, 100 * ours, DELTA) == pytest.approx(theirs, rel=1e-12)


def test_cohorts_of_fixed_size():
    accountant = rdp.RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    event = dp_event.SampledWithoutReplacementDpEvent(1000, 20, dp_event.GaussianDpEvent(1.0))
    accountant.compose(event, 50)
    epsilon = cohort(1.0, 20, 1000, steps=50).epsilon(DELTA)
    assert accountant.get_epsilon(DELTA) * (1 - 1e-9) <= epsilon < accountant.get_epsilon(DELTA) * 1.02
    assert epsilon < gaussian(1.0, steps=50).epsilon(DELTA) / 5  # it hides most of them each time
    assert cohort(2.0, 30, 30).epsilon(DELTA) == gaussian(2.0).epsilon(DELTA)  # all of them: nothing is hidden


def test_pure_and_stated_add_and_their_deltas_come_off_first():
    assert (stated(0.5) + stated(0.25)).epsilon(DELTA) == 0.75
    mixed = gaussian(4.0) + stated(0.5, 4e-6)
    assert mixed.epsilon(DELTA) == pytest.approx(0.5 + epsilon_of(4.0, 6e-6), rel=1e-12)
    assert stated(1.0, DELTA).epsilon(DELTA) == 1.0
    ten = sum((stated(0.1, DELTA / 10) for _ in range(10)), Composition())
    assert ten.epsilon(DELTA) == pytest.approx(1.0)  # and not refused for a rounding
    assert (stated(1.0, DELTA) + gaussian(4.0)).epsilon(DELTA) == math.inf
    assert stated(1.0, 2 * DELTA).epsilon(DELTA) == math.inf


def test_a_curve_of_a_gaussian_bounds_the_gaussian():
    exact = epsilon_of(2.0, DELTA)
    through = curve(*((a, a / 8) for a in np.linspace(1.5, 40, 300).tolist())).epsilon(DELTA)
    assert exact < through < 1.1 * exact
    # At an order between two the larger one's value is used; past the last there is none.
    assert renyi.at(((2.0, 0.1), (4.0, 0.3)), [1.5, 2.0, 3.0, 4.0, 5.0]).tolist() == [0.1, 0.1, 0.3, 0.3, math.inf]


def test_curves_and_distributions_meet_in_the_smaller_of_two_bounds():
    noise, curves = sampled(1.0, 0.01, 100), curve(*((float(a), a / 200) for a in range(2, 200)))
    both = (noise + curves).epsilon(DELTA)
    assert both <= noise.epsilon(DELTA / 2) + curves.epsilon(DELTA / 2)
    assert both > max(noise.epsilon(DELTA), curves.epsilon(DELTA))


def test_a_loss_beyond_reason_is_bounded_cheaply(monkeypatch):
    monkeypatch.setattr(accounting, "distribution_epsilon", lambda *_: pytest.fail("it was composed"))
    assert sampled(0.05, 0.5, 1000).epsilon(DELTA) > 1000


def test_the_closed_form_does_not_load_the_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    assert gaussian(1.0).epsilon(DELTA) == epsilon_of(1.0, DELTA)


kinds = st.one_of(
    st.builds(gaussian, st.floats(0.3, 50), st.integers(1, 100)),
    st.builds(stated, st.floats(0, 5), st.floats(0, DELTA / 8)),
    st.builds(lambda r: curve(*((float(a), a * r) for a in (2, 4, 8, 16, 32, 64))), st.floats(0, 1)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(kinds, min_size=1, max_size=4), kinds)
def test_more_releases_never_cost_less(before, one):
    several = sum(before, Composition())
    after = (several + one).epsilon(DELTA)
    assert after >= several.epsilon(DELTA) - 1e-12
    assert after >= one.epsilon(DELTA) - 1e-12
    assert after == (one + several).epsilon(DELTA)
    assert (several + one).bound(DELTA) >= after


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.floats(0.5, 20))
def test_steps_are_releases(steps, m):
    release = Release("id", "l", "gaussian", noise_multiplier=m)
    apart = together([release] * steps).epsilon(DELTA)
    assert apart == pytest.approx(Composition.of(replace(release, steps=steps)).epsilon(DELTA), rel=1e-9)
