"""The private client: clipped rows, sums without counts, and the noise its trust asks for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clients.dp_afl import DPAFL
from fedlab.analytic import Analytic, RandomReLU
from fedlab.errors import BadInput
from fedlab.privacy.ridge.guarantee import Guarantee
from fedlab.stats import NoisyGram, unpack

D0, C = 6, 3


def samples(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, D0, generator=rng), torch.randint(0, C, (n,), generator=rng)


def learner(mode: str = "exact", entropy: str = "seeded", **settings: object) -> DPAFL:
    guarantee = Guarantee(**settings)  # pyright: ignore[reportArgumentType]
    return DPAFL(C, RandomReLU(8, 0), mode, bits=8, guarantee=guarantee, clients=4, entropy=entropy)


def reply(model: DPAFL, n: int, seed: int = 3) -> NoisyGram:
    arrays, metrics = model.train({}, {}, *samples(n), seed)
    assert metrics == {}
    return unpack(arrays)


@pytest.mark.parametrize("mode", ["exact", "float64"])
def test_what_is_scored_is_not_clipped(mode: str):
    """A clip bounds what a sample adds to the sums; the head multiplies the features as they are."""
    x, _ = samples(50)
    plain = Analytic(C, RandomReLU(8, 0), mode, bits=8).features(x)
    assert torch.equal(learner(mode, clip=0.2).features(x), plain)


@pytest.mark.parametrize("mode", ["exact", "float64"])
def test_rows_are_clipped(mode: str):
    """No sample adds more than clip^2 to the trace of G, and with a generous clip the sums are AFL's own."""
    x, labels = samples(50)
    tight = learner(mode, clip=0.2).observe(x, labels).real()
    assert float(tight.gram.trace()) <= 50 * 0.2**2
    plain = Analytic(C, RandomReLU(8, 0), mode, bits=8).observe(x, labels)
    assert torch.equal(learner(mode, clip=100.0).observe(x, labels).gram, plain.gram)


def test_a_trusted_server_gets_sums_and_no_count():
    arrays, _ = learner().train({}, {}, *samples(20), 0)
    assert sorted(arrays) == ["cross", "gram", "kind", "scale", "shape", "variance"]


def test_central_sums_in_one_call_are_those_one_by_one():
    model = learner()
    sizes = [0, 1, 7, 12]
    x, labels = samples(20)
    together = model.train_in_total(x, labels, sizes)
    assert together is not None
    parts = zip(x.split(sizes), labels.split(sizes), strict=True)
    replies = [model.train({}, {}, part, target, 0)[0] for part, target in parts]
    one_by_one = [unpack(arrays) for arrays in replies]
    total = one_by_one[0]
    for part in one_by_one[1:]:
        total = total + part
    assert unpack(together[0]).sha256 == total.sha256


@pytest.mark.parametrize("settings", [{"trust": "local"}, {"trust": "distributed"}, {"unit": "client"}])
def test_clients_that_noise_or_clip_their_own_are_not_summed(settings: dict[str, str]):
    assert learner(**settings).train_in_total(*samples(5), [2, 3]) is None


def test_local_noise_is_a_whole_release_and_repeats_by_seed():
    model = learner(trust="local", epsilon=2.0)
    noisy = reply(model, 20)
    deviation = model.guarantee.deviations[0]
    assert noisy.gram_variance == pytest.approx(deviation**2)
    clean = model.observe(*samples(20)).real()
    moved = (noisy.gram - clean.gram).flatten()
    # 64 entries of standard deviation s or s/sqrt 2: their root mean square lies between half and twice s.
    assert deviation / 2 < float(moved.square().mean().sqrt()) < 2 * deviation
    assert reply(model, 20).sha256 == noisy.sha256
    assert reply(model, 20, seed=4).sha256 != noisy.sha256
    unseeded = learner(trust="local", epsilon=2.0, entropy="os")
    assert reply(unseeded, 20).sha256 != reply(unseeded, 20).sha256


def test_other_samples_or_another_promise_take_other_noise():
    """With the seed alone, the difference of two uploads would be the sample that one has more."""
    normals = []
    for n, epsilon in ((20, 2.0), (19, 2.0), (20, 1.0)):
        model = learner(trust="local", epsilon=epsilon)
        moved = reply(model, n).gram - model.observe(*samples(n)).real().gram
        normals.append(moved / model.guarantee.deviations[0])
    assert not torch.allclose(normals[0], normals[1])
    assert not torch.allclose(normals[0], normals[2])


def test_a_client_without_samples_sends_noise_like_any_other():
    empty = reply(learner(trust="local"), 0)
    assert bool(empty.gram.any())
    assert bool(empty.cross.any())


def test_a_share_is_integers():
    share = reply(learner(trust="distributed"), 20)
    assert share.gram.dtype == torch.int64
    assert share.scale is not None
    clean = learner(trust="distributed").observe(*samples(20))
    assert not torch.equal(share.gram, clean.gram)
    assert torch.equal(share.gram, share.gram.T)


def test_a_clients_whole_statistics_are_clipped_where_it_is_the_unit():
    model = learner(unit="client", clip=0.2)
    sums = model.observe(*samples(40)).real()
    norm = float((sums.gram.square().sum() + sums.cross.square().sum()).sqrt())
    assert 0.1 < norm <= 0.2
    rows, scale, _ = model.expand(samples(40)[0])
    assert scale is not None
    assert float((rows / scale).norm(dim=1).max()) > 0.2  # the rows themselves are as they were


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_rejected_before_the_clip(bad: float):
    x, labels = samples(5)
    x[2, 1] = bad
    for mode in ("exact", "float64"):
        with pytest.raises(BadInput, match=r"NaN|infinite"):
            learner(mode).train({}, {}, x, labels, 0)


def test_what_does_not_go():
    with pytest.raises(BadInput, match="mode=exact"):
        learner("float64", trust="distributed")
    with pytest.raises(BadInput, match="clients=100"):
        DPAFL(C, guarantee=Guarantee(trust="distributed"))
    with pytest.raises(BadInput, match="min_samples=5 with unit=sample"):
        DPAFL(C, guarantee=Guarantee(), min_samples=5)
    with pytest.raises(BadInput, match="entropy"):
        learner(entropy="dice")
    with pytest.raises(BadInput, match="weight"):
        from fedlab.stats import ClassWeights

        learner().observe(*samples(5), ClassWeights.tempered([1, 2, 2], 1.0))
