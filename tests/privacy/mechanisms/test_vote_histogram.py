"""Votes: one text moves the histogram by at most 1, and the noise keeps its budget."""

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedlab.errors import BadInput
from fedlab.privacy.accounting.calibration import votes_multiplier
from fedlab.privacy.accounting.release import Release
from fedlab.privacy.mechanisms.gaussian import epsilon_of
from fedlab.privacy.mechanisms.vote_histogram import BLOCK, histogram, noisy


def drawn(seed: int, n: int, d: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 12), st.booleans())
def test_a_text_moves_one_vote(seed, n, k, copies):
    private, candidates = drawn(seed, n), drawn(seed + 1, k)
    if copies:  # candidates that lie equally near
        candidates = np.concatenate([candidates, candidates])
    before = histogram(private, candidates)
    after = histogram(np.concatenate([private, drawn(seed + 2, 1)]), candidates)
    assert before.sum() == n and np.linalg.norm(after - before) == 1


def test_votes_go_to_the_nearest_whatever_the_block():
    private, candidates = drawn(0, BLOCK + 100), drawn(1, 9)
    nearest = np.linalg.norm(private[:, None] - candidates[None], axis=2).argmin(1)
    assert (histogram(private, candidates) == np.bincount(nearest, minlength=9)).all()


def test_the_noise_is_gaussian_of_the_stated_size():
    released = noisy(np.full(20_000, 7.0), 1.5, np.random.default_rng(0))
    assert stats.kstest(released, "norm", (7.0, 1.5)).pvalue > 0.01
    assert (noisy(np.arange(3.0), 0.0, np.random.default_rng(0)) == np.arange(3.0)).all()


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_all_rounds_together_keep_the_budget(rounds):
    m = votes_multiplier(8.0, 1e-5, rounds)
    assert epsilon_of(m / rounds**0.5, 1e-5) == pytest.approx(8.0, rel=1e-6)
    other = pld_privacy_accountant.PLDAccountant()
    other.compose(dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(m), rounds))
    assert other.get_epsilon(1e-5) == pytest.approx(8.0, rel=1e-3)


def test_votes_take_what_a_generator_leaves():
    steps = Release("g", "g", "subsampled_gaussian", noise_multiplier=1.2, sampling_probability=0.05, steps=60)
    m = votes_multiplier(4.0, 1e-5, 2, (steps,))
    assert m > votes_multiplier(4.0, 1e-5, 2)
    other = pld_privacy_accountant.PLDAccountant()
    sampled = dp_event.PoissonSampledDpEvent(0.05, dp_event.GaussianDpEvent(1.2))
    other.compose(dp_event.SelfComposedDpEvent(sampled, 60))
    other.compose(dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(m), 2))
    assert 3.9 < other.get_epsilon(1e-5) <= 4.0 * 1.002  # theirs is on a coarser grid


def test_bad_input():
    with pytest.raises(BadInput, match="0 candidates"):
        histogram(drawn(0, 3), drawn(0, 0))
    with pytest.raises(BadInput, match="5 coordinates, candidates 4"):
        histogram(drawn(0, 3), drawn(0, 2, 4))
    with pytest.raises(BadInput, match="rounds=0"):
        votes_multiplier(1.0, 1e-5, 0)
    greedy = Release("g", "g", "gaussian", noise_multiplier=0.5)
    with pytest.raises(BadInput, match="the generator alone spends"):
        votes_multiplier(1.0, 1e-5, 1, (greedy,))
