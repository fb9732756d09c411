"""Noisy statistics: an algebra without counts, a solve of the positive part, and no size that tells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedlab.errors import BadInput
from fedlab.stats import FixedPoint, GramStats, NoisyGram, StatisticsTotal, one_hot, pack, total_of, unpack


def stats(n: int, d: int = 4, c: int = 3, seed: int = 0, fixed: FixedPoint | None = None) -> GramStats:
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(n, d, generator=rng, dtype=torch.float64) - 0.5
    return GramStats.from_batch(x, one_hot(torch.randint(0, c, (n,), generator=rng), c), fixed)


@pytest.mark.parametrize("fixed", [None, FixedPoint(1.0, 8)])
def test_without_noise_it_is_ridge(fixed: FixedPoint | None):
    """A positive system: clipping its eigenvalues changes nothing; by another factorisation, so to 1e-9."""
    plain = stats(50, fixed=fixed)
    torch.testing.assert_close(NoisyGram.without_counts(plain).solve(0.5), plain.solve(0.5), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fixed", [None, FixedPoint(1.0, 8)])
def test_sums_are_those_of_the_union(fixed: FixedPoint | None):
    parts = [NoisyGram.without_counts(stats(n, seed=n, fixed=fixed)) for n in (0, 3, 20)]
    total = StatisticsTotal(NoisyGram)
    for part in parts:
        total.add(part)
    whole = NoisyGram.without_counts(total_of(stats(n, seed=n, fixed=fixed) for n in (0, 3, 20)))
    if fixed:
        assert total.result().sha256 == whole.sha256
    else:  # sums of 23 products of about 1
        torch.testing.assert_close(total.result().gram, whole.gram, rtol=1e-12, atol=1e-12)


def test_negative_directions_tell_nothing():
    """G = diag(4, -1), C = (4, 4): the head has nothing along the second, but for the ridge alone."""
    gram = torch.diag(torch.tensor([4.0, -1.0], dtype=torch.float64))
    noisy = NoisyGram(gram, torch.full((2, 1), 4.0, dtype=torch.float64))
    assert noisy.solve(1.0).flatten().tolist() == pytest.approx([4 / 5, 4 / 1])
    assert noisy.solution(0.0).weight.flatten().tolist() == pytest.approx([1.0, 0.0])


def test_the_noises_own_ridge():
    noisy = NoisyGram(torch.eye(8, dtype=torch.float64), torch.ones(8, 1, dtype=torch.float64), None, 9.0, 9.0)
    assert noisy.noise_ridge == pytest.approx(3 * 4)
    assert noisy.solution("noise").ridge == pytest.approx(12)


def test_integers_may_be_negative_on_the_diagonal():
    """Noise makes them so; adding them must not be taken for an overflow."""
    gram = torch.tensor([[-5]], dtype=torch.int64)
    one = NoisyGram(gram, gram.clone(), 2.0)
    assert int((one + one).gram) == -10
    huge = NoisyGram(torch.tensor([[2**63 - 1]]), gram, 2.0)
    with pytest.raises(BadInput, match="2\\^63"):
        huge + one


@pytest.mark.parametrize("fixed", [None, FixedPoint(1.0, 8)])
def test_size_on_the_wire_tells_nothing(fixed: FixedPoint | None):
    """Nobody's statistics and those of 50 samples of one class: the same names, sizes and types."""
    none, many = (pack(NoisyGram.without_counts(stats(n, fixed=fixed))) for n in (0, 50))
    assert {k: (v.shape, v.dtype) for k, v in none.items()} == {k: (v.shape, v.dtype) for k, v in many.items()}
    assert unpack(many).sha256 == NoisyGram.without_counts(stats(50, fixed=fixed)).sha256


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("gram", None, "gram is missing"),
        ("gram", np.zeros(3), "shape"),
        ("gram", np.full(10, np.nan), "NaN"),
        ("cross", np.zeros(12, np.int64), "type"),
        ("variance", np.array([-1.0, 0.0]), "cannot be"),
        ("shape", np.array([0, 3]), "cannot be"),
        ("scale", np.array([-1.0]), "cannot be"),
    ],
)
def test_damaged(part: str, value: np.ndarray | None, said: str):
    packed = pack(NoisyGram.without_counts(stats(5)))
    if value is None:
        del packed[part]
    else:
        packed[part] = value
    with pytest.raises(BadInput, match=said):
        unpack(packed)


@pytest.mark.parametrize("ridge", [-1.0, float("nan"), "gcv"])
def test_no_ridge(ridge: float | str):
    with pytest.raises(BadInput, match="ridge"):
        NoisyGram.without_counts(stats(5)).solution(ridge)


def test_nothing_positive():
    zero = torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(BadInput, match="nothing positive"):
        NoisyGram(zero, zero).solution(0.0)


def test_other_settings_do_not_add():
    with pytest.raises(BadInput, match="must use the same"):
        NoisyGram.without_counts(stats(5)) + NoisyGram.without_counts(stats(5, fixed=FixedPoint()))
