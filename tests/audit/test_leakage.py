"""Attacks get what the equations say they get, and no more where there is nothing to get."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, norm

from fedlab.audit.histogram import agreement, histogram, shares
from fedlab.audit.leakage import Public, masked
from fedlab.audit.membership import Shadow, from_head, known_others, unknown_others
from fedlab.audit.reconstruction import best_cosine, directions, informed, random_cosine
from fedlab.audit.success import advantage_cap, auc, distinguish, gain, leaked, sure_rate
from fedlab.errors import BadInput
from fedlab.privacy.mechanisms.gaussian import multiplier
from fedlab.privacy.mechanisms.sensitivity import joint_sensitivity
from fedlab.privacy.ridge.clip_and_noise import symmetric_gaussian
from fedlab.stats import FixedPoint, GramStats, NoisyGram, one_hot
from tests.privacy.half_vector import half_vector

D, C = 24, 4


def population(n, seed=0, d=D):
    """Unit rows around one mean per class: the population's mean is near every row."""
    generator = torch.Generator().manual_seed(seed)
    centres = 1 + torch.randn(C, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.arange(n) % C
    x = centres[labels] + 0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=1), labels


def sums(x, labels):
    return NoisyGram.without_counts(GramStats.from_batch(x, one_hot(labels, C)))


def noisy(upload, epsilon, seed=0):
    s = multiplier(epsilon, 1e-5) * joint_sensitivity(1.0)
    return symmetric_gaussian(upload, s, s, np.random.default_rng(seed))


# -- features --------------------------------------------------------------------------------------------------


def test_one_sample_is_read_from_either_sum():
    x, labels = population(1)
    top, column = directions(sums(x, labels), tries=1)
    for guess in (top[None], column[None]):
        assert best_cosine(guess, x) > 1 - 1e-12
    assert torch.allclose(column, x[0])


def test_the_only_sample_of_a_class_is_read_among_many():
    x, labels = population(200)
    labels = torch.where(labels == 0, 1, labels)
    labels[7] = 0
    found = directions(sums(x, labels), tries=0)
    assert best_cosine(found, x[7:8]) > 1 - 1e-12
    assert best_cosine(found[1:], x[7:8]) < 0.99


def test_noise_at_epsilon_1_leaves_what_random_directions_find():
    x, labels = population(60)
    uploads = [sums(x[i : i + 1], labels[i : i + 1]) for i in range(len(x))]
    hidden = [directions(noisy(upload, 1.0, seed), tries=4) for seed, upload in enumerate(uploads)]
    found = np.array([best_cosine(guess, x[i : i + 1]) for i, guess in enumerate(hidden)])
    generator = torch.Generator().manual_seed(0)
    chance = np.mean([random_cosine(x[i : i + 1], 4 + C, 50, generator) for i in range(len(x))])
    assert abs(found.mean() - chance) < 3 * found.std() / math.sqrt(len(x))
    assert min(best_cosine(directions(u, 1), x[i : i + 1]) for i, u in enumerate(uploads)) > 0.999


def test_a_sum_over_many_leaves_what_another_clients_sum_leaves():
    x, labels = population(440)
    rest, targets = sums(x[40:], labels[40:]), range(40)
    read = [directions(rest + sums(x[i : i + 1], labels[i : i + 1]), tries=4) for i in targets]
    own = np.array([best_cosine(read[i], x[i : i + 1]) for i in targets])
    other = np.array([best_cosine(read[(i + C) % 40], x[i : i + 1]) for i in targets])
    assert leaked(own.mean(), other.mean()) < 0.05
    assert own.mean() < 0.98


@pytest.mark.parametrize("samples", [1, 5])
def test_the_informed_guess_is_the_posterior_mean(samples):
    public = Public.of(*population(400), C)
    x, labels = population(samples * C, seed=3)
    upload = noisy(sums(x, labels), 8.0)
    mu, s = public.means[2], public.covariances[2]
    total = samples * s + upload.cross_variance * torch.eye(D, dtype=torch.float64)
    expected = mu + s @ torch.linalg.inv(total) @ (upload.cross[:, 2] - samples * mu)
    found = informed(upload, 2, public, samples)
    assert torch.allclose(found[0], expected, rtol=0, atol=1e-6)
    # It is as near as a guess can be: nearer than the noisy mean itself.
    error = (found - x[labels == 2]).square().sum()
    assert error < (upload.cross[:, 2] / samples - x[labels == 2]).square().sum()


# -- histograms ------------------------------------------------------------------------------------------------


def test_columns_of_c_tell_the_histogram_and_noise_hides_it():
    public = Public.of(*population(400), C)
    x, labels = population(400, seed=5)
    kept = torch.cat([(labels == 0).nonzero()[:30, 0], (labels == 2).nonzero()[:10, 0]])
    truth = torch.tensor([0.75, 0, 0.25, 0], dtype=torch.float64)
    upload, spread = sums(x[kept], labels[kept]), torch.full((C,), 0.1, dtype=torch.float64)
    assert agreement(histogram(upload, 40, public, spread), truth) > 0.97
    buried = NoisyGram(upload.gram, upload.cross, None, 1e12, 1e12)
    assert agreement(histogram(buried, 40, public, spread), public.shares) > 1 - 1e-6
    assert agreement(truth, public.shares) == pytest.approx(0.5)
    assert torch.equal(shares(torch.tensor([-1, 0, 0, 0]), public.shares), public.shares)


def test_what_is_public_is_what_the_samples_say():
    x, labels = population(50)
    assert torch.allclose(Public.of(x, labels, C).second_moment, x.T @ x / 50)
    with pytest.raises(BadInput, match=r"classes \[4\] have no public sample"):
        Public.of(x, labels, C + 1)


# -- membership ------------------------------------------------------------------------------------------------


def test_the_score_is_the_likelihood_ratio_of_the_noise():
    x, labels = population(1)
    y, s = one_hot(labels, C)[0], 0.7
    contribution, squared = half_vector(sums(x, labels)), joint_sensitivity(1.0) ** 2
    for seed in range(5):
        seen = symmetric_gaussian(sums(x[:0], labels[:0]), s, s, np.random.default_rng(seed))
        at = half_vector(seen)
        ratio = norm.logpdf(at, contribution, s).sum() - norm.logpdf(at, 0, s).sum()
        assert ratio == pytest.approx((known_others(seen, x[0], y) - squared / 2) / s**2)


@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_the_strongest_attack_gets_what_gaussian_noise_lets_it(epsilon):
    x, labels = population(400, d=4)
    y = one_hot(labels, C)
    nothing, seeds = sums(x[:0], labels[:0]), iter(range(800))
    inside, outside = (
        np.array([known_others(noisy(rest, epsilon, next(seeds)), x[i], y[i]) for i, rest in enumerate(uploads)])
        for uploads in ([sums(x[i : i + 1], labels[i : i + 1]) for i in range(400)], [nothing] * 400)
    )
    found = distinguish(inside, outside, np.random.default_rng(0))
    m = multiplier(epsilon, 1e-5)
    assert found.auc.low <= norm.cdf(1 / (m * math.sqrt(2))) <= found.auc.high
    assert found.advantage.low < 2 * norm.cdf(1 / (2 * m)) - 1 < advantage_cap(epsilon, 1e-5)


def test_fewer_samples_than_features_are_all_recognised():
    x, labels = population(40)
    public = Public.of(*population(400, seed=9), C)
    scores = unknown_others(sums(x[:10], labels[:10]), 10, x, public)
    assert scores[:10].min() > scores[10:].max()
    hidden = unknown_others(noisy(sums(x[:10], labels[:10]), 0.01), 10, x, public)
    assert np.ptp(hidden) < np.ptp(scores) / 50 and hidden[:10].min() < hidden[10:].max()


def test_a_shadow_knows_the_head_with_a_sample_and_without_it():
    x, labels = population(60)
    y, member = one_hot(labels, C), torch.arange(60) < 40
    shadow = Shadow.of(sums(x[:40], labels[:40]), 0.3, x, y, member)
    for i in (3, 50):
        others = torch.tensor([j for j in range(40) if j != i])
        for scores, rows in ((shadow.outside, others), (shadow.inside, torch.cat([others, torch.tensor([i])]))):
            weight = GramStats.from_batch(x[rows], y[rows]).solve(0.3)
            assert torch.allclose(scores[i], x[i] @ weight, rtol=0, atol=1e-9)


def test_a_head_tells_who_it_was_fitted_to():
    x, labels = population(120)
    y, rng = one_hot(labels, C), np.random.default_rng(0)
    halves = [torch.from_numpy(rng.permutation(120) < 60) for _ in range(17)]
    uploads = [sums(x[half], labels[half]) for half in halves]
    shadows = [Shadow.of(u, 0.1, x, y, half) for u, half in zip(uploads[1:], halves[1:], strict=True)]
    scores, member = from_head(uploads[0].solve(0.1), shadows, x), halves[0].numpy()
    assert auc(scores[member], scores[~member]) > 0.75


# -- secure aggregation ----------------------------------------------------------------------------------------


def test_a_masked_upload_is_uniform_and_tells_nothing():
    x, labels = population(1, d=96)
    exact = GramStats.from_batch(x, one_hot(labels, C), FixedPoint(1.0, 12))
    seen = masked(exact, bytes(range(32)))
    entries = torch.cat([seen.gram[tuple(torch.triu_indices(96, 96))], seen.cross.flatten()]).numpy()
    counts = np.histogram(entries, bins=32, range=(-(2.0**63), 2.0**63))[0]
    assert chisquare(counts).pvalue > 0.001
    assert entries.std() == pytest.approx(math.sqrt(seen.cross_variance), rel=0.05)
    assert best_cosine(directions(seen, 1), x) < 0.4
    with pytest.raises(BadInput, match="float64 cannot be masked"):
        masked(GramStats.from_batch(x, one_hot(labels, C)), bytes(32))


# -- how success is measured -----------------------------------------------------------------------------------


def test_the_area_counts_pairs_and_ties_by_half():
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 6, 40).astype(float), rng.integers(0, 5, 30).astype(float)
    pairs = [1.0 if a > b else 0.5 * (a == b) for a, b in product(inside, outside)]
    assert auc(inside, outside) == pytest.approx(np.mean(pairs))
    assert sure_rate(np.arange(200.0), np.arange(100.0)) == pytest.approx(1 - 99 / 200)
    assert sure_rate(np.ones(50), np.ones(50)) == 0


def test_no_difference_is_no_advantage_on_average():
    rng = np.random.default_rng(0)
    found = [distinguish(rng.standard_normal(50), rng.standard_normal(50), rng) for _ in range(20)]
    advantages = [success.advantage.value for success in found]
    # One has a standard deviation of about sqrt(2 / 4 / 25) = 0.14, their mean one of 0.03.
    assert abs(np.mean(advantages)) < 0.1
    covered = [success.auc.low <= 0.5 <= success.auc.high for success in found]
    assert sum(covered) >= 16
    sure = distinguish(np.ones(10), np.zeros(10), rng)
    assert (sure.auc.value, sure.advantage.value, sure.sure.value) == (1, 1, 1)


def test_leaks_and_caps():
    assert leaked(0.75, 0.5) == 0.5 and leaked(0.5, 0.5) == 0 and leaked(1.0, 1.0) == 0
    assert advantage_cap(1.0, 0.0) == pytest.approx(math.tanh(0.5))
    halves = np.array([0.0, 1.0] * 50)  # of standard deviation 0.5 / sqrt(100)
    found = gain(halves, np.zeros(100), np.random.default_rng(0))
    assert found.value == 0.5 and found.low == pytest.approx(0.4, abs=0.03)
    # Where success and guess vary together, what leaked does not.
    found = gain(0.5 + 0.5 * halves, halves, np.random.default_rng(0))
    assert [found.low, found.high, found.value] == pytest.approx([0.5] * 3)
    with pytest.raises(BadInput, match="1 scores of members"):
        distinguish(np.zeros(1), np.zeros(5), np.random.default_rng(0))
