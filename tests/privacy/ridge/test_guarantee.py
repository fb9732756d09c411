"""A guarantee turns (epsilon, delta) into noise: by whom, how much, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedlab.errors import BadInput
from fedlab.privacy.mechanisms import skellam
from fedlab.privacy.mechanisms.gaussian import multiplier
from fedlab.privacy.ridge.guarantee import Guarantee
from fedlab.stats import FixedPoint, GramStats, NoisyGram, one_hot

FIXED = FixedPoint(1.0, 8)


def exact_sums(n: int = 30, d: int = 4, c: int = 2) -> NoisyGram:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(n, d, generator=rng, dtype=torch.float64) / 2
    return NoisyGram.without_counts(GramStats.from_batch(x, one_hot(torch.arange(n) % c, c), FIXED))


def test_noise_is_multiplier_times_sensitivity():
    assert Guarantee(2.0).deviations == pytest.approx([multiplier(2.0, 1e-5) * math.sqrt(2)] * 2)
    assert Guarantee(2.0, clip=3.0, unit="client").deviations == pytest.approx([multiplier(2.0, 1e-5) * 3] * 2)


@pytest.mark.parametrize("u", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("clip", [0.5, 1.0, 2.0])
def test_an_uneven_split_spends_the_same(u: float, clip: float):
    """B^4/s_G^2 + B^2/s_C^2 = 1/m^2."""
    g, c = Guarantee(1.0, clip=clip, gram_share=u).deviations
    assert clip**4 / g**2 + clip**2 / c**2 == pytest.approx(1 / multiplier(1.0, 1e-5) ** 2)


def test_shares_of_all_clients_carry_the_whole_noise():
    """The sum of h shares has the variances that the Renyi bound asks for; checked by draws too."""
    guarantee, k = Guarantee(1.0, trust="distributed", dropout=0.125, colluding=0.125), 8
    sums = exact_sums()
    empty = NoisyGram(torch.zeros_like(sums.gram), torch.zeros_like(sums.cross), sums.scale)
    gram, cross = guarantee.variances(4, 2, FIXED.scale)
    assert cross == pytest.approx(gram / FIXED.scale**2)
    assert (guarantee.needed(k), guarantee.honest(k)) == (7, 6)
    rng = np.random.default_rng(0)
    totals = []
    for _ in range(600):
        shares = [guarantee.share(empty, k, rng) for _ in range(6)]
        total = shares[0]
        for share in shares[1:]:
            total = total + share
        totals.append(total)
    assert totals[0].gram_variance == pytest.approx(gram / FIXED.scale**4)
    grams = torch.stack([t.gram for t in totals]).to(torch.float64)
    assert torch.equal(grams, grams.transpose(1, 2))
    i, j = torch.triu_indices(4, 4, 1)
    # 2400 and 3600 draws: within 5 standard errors.
    assert float(grams[:, range(4), range(4)].var()) == pytest.approx(gram, rel=5 * math.sqrt(2 / 2400))
    assert float(grams[:, i, j].var()) == pytest.approx(gram / 2, rel=5 * math.sqrt(2 / 3600))


def test_the_whole_noise_keeps_epsilon():
    """In a coordinate of each kind: the largest shift of it alone, by the exact distribution's bound."""
    guarantee = Guarantee(1.0, trust="distributed")
    gram, cross = guarantee.variances(4, 2, FIXED.scale)
    for l2, variance in ((FIXED.scale**2, gram), (FIXED.scale**2 / math.sqrt(2), gram / 2), (FIXED.scale, cross)):
        block = skellam.Block(l2 * 1.0, l2 * 2.0, variance)
        assert skellam.epsilon_of(skellam.Shift(block.l2**2 / variance, [block]), 1e-5) < 1.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epsilon": 0.0}, "epsilon=0.0"),
        ({"delta": 1.5}, "delta=1.5"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"trust": "me"}, "central"),
        ({"unit": "household"}, "sample"),
        ({"relation": "swap"}, "add_remove"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"colluding": -0.1}, "colluding=-0.1"),
        ({"dropout": 0.5, "colluding": 0.5}, "leave no client"),
        ({"cap": 0.0}, "cap=0.0"),
        ({"gram_share": 1.0}, "gram_share=1.0"),
        ({"gram_share": 0.5, "relation": "replace_one"}, "replace_one"),
        ({"gram_share": 0.5, "unit": "client"}, "unit=client"),
        ({"gram_share": 0.5, "trust": "distributed"}, "distributed"),
    ],
)
def test_what_does_not_go(settings: dict[str, object], said: str):
    with pytest.raises(BadInput, match=said):
        Guarantee(**settings)  # pyright: ignore[reportArgumentType]


def test_shares_need_integers():
    sums = exact_sums().real()
    with pytest.raises(BadInput, match="mode=exact"):
        Guarantee(trust="distributed").share(sums, 4, np.random.default_rng(0))
