"""Clipping and noise do what they say: bounds, variances, the isometric form, reproducibility."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedlab.errors import BadInput
from fedlab.privacy.ridge.clip_and_noise import clip_rows, clip_statistics, symmetric_gaussian
from fedlab.stats import FixedPoint, GramStats, NoisyGram, one_hot
from tests.privacy.half_vector import half_vector


def sums(n: int = 40, d: int = 5, c: int = 3, seed: int = 0, fixed: FixedPoint | None = None) -> NoisyGram:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=rng, dtype=torch.float64) / 2
    y = one_hot(torch.randint(0, c, (n,), generator=rng), c)
    return NoisyGram.without_counts(GramStats.from_batch(x, y, fixed))


def test_rows_inside_stay_and_rows_outside_keep_their_direction():
    x = torch.tensor([[0.3, 0.4], [3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    clipped = clip_rows(x, 1.0)
    assert torch.equal(clipped[0], x[0])
    torch.testing.assert_close(clipped[1], x[1] / 5)
    assert torch.equal(clipped[2], x[2])
    assert bool((clipped.norm(dim=1) <= 1).all())


def test_clipped_integers_are_integers():
    q, _ = FixedPoint(1.0, 8).encode(torch.randn(50, 9, generator=torch.Generator().manual_seed(0)))
    clipped = clip_rows(q, 1.0, FixedPoint(1.0, 8).scale)
    assert torch.equal(clipped, clipped.round())
    assert float(clipped.norm(dim=1).max()) <= 127


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_passes_no_clip(bad: float):
    x = torch.ones(3, 2, dtype=torch.float64)
    x[1, 0] = bad
    with pytest.raises(BadInput, match="NaN or infinite"):
        clip_rows(x, 1.0)
    with pytest.raises(BadInput, match="NaN or infinite"):
        clip_statistics(NoisyGram(x[:2].clone(), x[:2].clone()), 1.0)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_a_clip_must_be_a_bound(clip: float):
    with pytest.raises(BadInput, match="clip="):
        clip_rows(torch.ones(1, 2, dtype=torch.float64), clip)


def test_a_clip_below_the_grid_is_refused():
    with pytest.raises(BadInput, match="one step of the fixed point"):
        clip_rows(torch.ones(1, 2, dtype=torch.float64), 0.001, 127.0)


@pytest.mark.parametrize("fixed", [None, FixedPoint(2.0, 10)])
@pytest.mark.parametrize("bound", [0.5, 1e6])
def test_a_clients_statistics_are_clipped_whole(fixed: FixedPoint | None, bound: float):
    before = sums(fixed=fixed)
    after = clip_statistics(before, bound)
    norm = np.linalg.norm(half_vector(after))
    assert norm <= bound
    if bound > np.linalg.norm(half_vector(before)):
        assert after is before
    else:
        assert norm > bound * (1 - (1e-9 if fixed is None else 1e-2))  # integers are cut towards zero
    assert after.scale == before.scale


def test_the_half_vector_keeps_norms():
    a, b = sums(seed=1), sums(seed=2)
    squares = (a.gram - b.gram).square().sum() + (a.cross - b.cross).square().sum()
    assert np.linalg.norm(half_vector(a) - half_vector(b)) == pytest.approx(math.sqrt(float(squares)))


def test_noise_has_the_stated_variances():
    """4000 draws: each variance within 5 standard errors, sqrt(2/4000) of itself; no two entries correlated."""
    empty = NoisyGram(torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64))
    rng = np.random.default_rng(0)
    draws = [symmetric_gaussian(empty, 2.0, 0.5, rng) for _ in range(4000)]
    gram = torch.stack([draw.gram for draw in draws])
    assert torch.equal(gram, gram.transpose(1, 2))
    error = 5 * math.sqrt(2 / 4000)
    for i in range(3):
        for j in range(i, 3):
            assert float(gram[:, i, j].var()) == pytest.approx(4.0 if i == j else 2.0, rel=error)
    cross = torch.stack([draw.cross for draw in draws])
    torch.testing.assert_close(cross.var(0), torch.full((3, 2), 0.25, dtype=torch.float64), rtol=error, atol=0)
    vectors = np.array([half_vector(draw) / ([2.0] * 6 + [0.5] * 6) for draw in draws])
    off = np.corrcoef(vectors.T) - np.eye(12)
    assert np.abs(off).max() < 5 / math.sqrt(4000)
    assert (draws[0].gram_variance, draws[0].cross_variance) == (4.0, 0.25)


def test_equal_seeds_equal_noise():
    one, same = (symmetric_gaussian(sums(), 1.0, 1.0, np.random.default_rng(7)) for _ in range(2))
    assert one.sha256 == same.sha256
    assert one.sha256 != symmetric_gaussian(sums(), 1.0, 1.0, np.random.default_rng(8)).sha256


def test_variances_add_up():
    rng = np.random.default_rng(0)
    total = symmetric_gaussian(sums(), 1.0, 2.0, rng) + symmetric_gaussian(sums(), 1.0, 2.0, rng)
    assert (total.gram_variance, total.cross_variance) == (2.0, 8.0)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_no_deviation(bad: float):
    with pytest.raises(BadInput, match="gram_deviation"):
        symmetric_gaussian(sums(), bad, 1.0, np.random.default_rng(0))
