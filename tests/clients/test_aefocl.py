import numpy as np
import pytest
import torch

from clients.acil import ACIL
from clients.aefocl import AEFOCL
from fedlab.analytic import Analytic, Identity, RandomReLU, balanced
from fedlab.analytic.pseudo_features import expectation, pseudo_features
from fedlab.errors import BadInput
from fedlab.stats import ClassWeights, GramStats, one_hot, unpack
from tests.draws import samples

MODES = pytest.mark.parametrize("mode", ["float64", "exact"])
D0, D, C = 4, 20, 4
COUNTS = [60, 25, 3, 0]


def imbalanced(seed=0):
    x, _ = samples(sum(COUNTS), D0, C, seed)
    return x, torch.arange(C).repeat_interleave(torch.tensor(COUNTS))


@MODES
@pytest.mark.parametrize("expansion", [Identity(), RandomReLU(D)], ids=["identity", "relu"])
def test_without_imbalance_it_is_acil(mode, expansion):
    x, _ = samples(60, D0)
    labels = torch.arange(60) % 3  # and a class that nobody has seen
    mine, acil = AEFOCL(C, expansion, mode), ACIL(C, expansion, mode)
    head = mine.fit(mine.observe(x, labels))
    assert torch.equal(head, acil.fit(acil.observe(x, labels)))
    alone = mine.observe(x, torch.zeros(60, dtype=torch.int64))
    assert torch.equal(mine.fit(alone), acil.fit(alone.sums))


@MODES
def test_the_head_is_that_of_the_samples_and_the_pseudo_features(mode):
    x, labels = imbalanced()
    model = AEFOCL(C, RandomReLU(D), mode, spread=0.7, seed=3)
    statistics = model.observe(x, labels)
    xs, ys = [x], [labels]
    mean, deviation = statistics.moments.mean.numpy(), statistics.moments.variance.sqrt().numpy()
    for c, n in enumerate(COUNTS):
        if n:
            drawn = np.random.default_rng([3, c]).standard_normal((60 - n, D0))
            xs.append(torch.from_numpy(mean[c] + 0.7 * deviation[c] * drawn))
            ys.append(torch.full((60 - n,), c))
    acil = ACIL(C, RandomReLU(D), mode)
    theirs = acil.observe(torch.cat(xs), torch.cat(ys))
    found = balanced(statistics, model, 0.7, 3)
    assert found.class_counts.tolist() == theirs.class_counts.tolist() == [60, 60, 60, 0]
    assert torch.allclose(model.fit(statistics), acil.fit(theirs), rtol=0, atol=1e-10)
    if mode == "exact":
        assert torch.equal(found.gram, theirs.gram) and torch.equal(model.fit(statistics), acil.fit(theirs))


@MODES
def test_pseudo_features_follow_from_the_seed_and_the_class_and_are_never_kept(mode):
    x, labels = imbalanced()
    model = AEFOCL(C, RandomReLU(D), mode)
    statistics = model.observe(x, labels)
    digest = statistics.sha256
    assert torch.equal(model.fit(statistics), model.fit(statistics)) and statistics.sha256 == digest
    # Who observed what, in which order, and what the other classes are changes nothing.
    parts = [model.observe(*p) for p in zip(x.split(11), labels.split(11), strict=True)]
    total = parts[-1]
    for part in parts[-2::-1]:
        total = total + part
    if mode == "exact":
        assert torch.equal(model.fit(total), model.fit(statistics))
    assert torch.allclose(model.fit(total), model.fit(statistics), rtol=0, atol=1e-9)
    other = AEFOCL(C, RandomReLU(D), mode, seed=1)
    assert not torch.allclose(other.fit(statistics), model.fit(statistics), atol=1e-6)
    # A plain learner of the same settings, as a server has it, draws the same.
    server = Analytic(C, RandomReLU(D), mode)
    assert torch.equal(balanced(statistics, server).solve(0.1), model.fit(statistics))


def test_they_scatter_as_their_class_does():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20_050, 2, generator=generator, dtype=torch.float64) * torch.tensor([0.5, 2.0]) + 3
    labels = torch.tensor([0] * 50 + [1] * 20_000)
    model = AEFOCL(2, Identity(), "float64")
    moments = model.observe(x, labels).moments
    drawn = torch.cat([batch for c, batch in pseudo_features(moments, 1.0, 0) if c == 0])
    assert len(drawn) == 19_950 and max(len(b) for _, b in pseudo_features(moments)) <= 4096
    assert torch.allclose(drawn.mean(0), x[:50].mean(0), rtol=0, atol=0.06)
    assert torch.allclose(drawn.std(0), x[:50].std(0, unbiased=False), rtol=0.03)
    still = torch.cat([batch for _, batch in pseudo_features(moments, 0.0, 0)])
    assert torch.equal(still, moments.mean[0].expand_as(still))


@MODES
@pytest.mark.parametrize("spread", [0.0, 1.0, 1.5])
def test_the_expectation_is_the_average_of_many_draws(mode, spread):
    x, labels = imbalanced()
    model = AEFOCL(C, Identity(), mode, limit=4.0, spread=spread)
    statistics = model.observe(x, labels)
    expected = expectation(statistics.moments, statistics.sums, spread)
    unit = expected.scale or 1.0
    gram, cross = torch.zeros(D0, D0).double(), torch.zeros(D0, C).double()
    for seed in range(400):
        for c, drawn in pseudo_features(statistics.moments, spread, seed):
            gram += drawn.T @ drawn / 400
            cross += drawn.T @ one_hot(torch.full((len(drawn),), c), C) / 400
    assert torch.allclose(expected.gram.double() / unit**2, gram, rtol=0, atol=0.8 * (0.1 + spread**2))
    assert torch.allclose(expected.cross.double() / unit, cross, rtol=0, atol=0.01 + 1.5 * spread)
    assert expected.class_counts.tolist() == [0, 35, 57, 0]
    by_hand = torch.zeros(D0, D0).double()
    for c, m in ((1, 35), (2, 57)):
        mu, var = statistics.moments.mean[c], statistics.moments.variance[c]
        by_hand += m * (torch.outer(mu, mu) + spread**2 * torch.diag(var))
    assert torch.allclose(expected.gram.double() / unit**2, by_hand, rtol=0, atol=0.51 / unit**2 + 1e-11)
    found = balanced(statistics, model, spread)
    assert found.class_counts.tolist() == [60, 60, 60, 0]
    assert torch.equal(model.fit(statistics), found.solve(0.1))


@MODES
def test_a_sum_in_the_worker_is_the_sum_of_the_answers_and_counts_their_bytes(mode):
    x, labels = imbalanced()
    sizes = [50, 3, 0, 35]
    model = AEFOCL(C, RandomReLU(D), mode)
    answers = [model.train({}, {}, *part, 0)[0] for part in zip(x.split(sizes), labels.split(sizes), strict=True)]
    packed, num_bytes = model.train_in_total(x, labels, sizes)
    assert num_bytes == sum(array.nbytes + 128 for answer in answers for array in answer.values())
    total = unpack(answers[0])
    for answer in answers[1:]:
        total = total + unpack(answer)
    assert torch.allclose(model.fit(total), model.fit(unpack(packed)), rtol=0, atol=1e-9)
    assert mode == "float64" or total.sha256 == unpack(packed).sha256


def test_rare_classes_gain_on_an_imbalanced_stream():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 6, generator=generator, dtype=torch.float64) * 0.35

    def draw(counts):
        labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
        x = centres[labels] + 0.3 * torch.randn(len(labels), 6, generator=generator, dtype=torch.float64)
        return x.clamp(-2, 2), labels

    x, labels = draw([1500, 60, 30])
    test, truth = draw([300, 300, 300])
    found = {}
    for model in (AEFOCL(3, RandomReLU(64), limit=2.0), ACIL(3, RandomReLU(64), limit=2.0)):
        predicted = model.predict(model.fit(model.observe(x, labels)), test)
        found[type(model)] = float((predicted == truth).double().mean())
    assert found[AEFOCL] > found[ACIL] + 0.05


def test_what_a_generator_draws_is_no_saturation_of_the_data():
    x, labels = imbalanced()
    model = AEFOCL(C, RandomReLU(D), limit=1.0, spread=5.0)
    statistics = model.observe(x, labels)
    assert balanced(statistics, model, 5.0).saturated == statistics.saturated


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"spread": -1.0}, r"spread=-1\.0"), ({"spread": float("nan")}, "spread=nan"), ({"seed": -1}, "seed=-1")],
)
def test_a_learner_that_cannot_be_is_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        AEFOCL(C, **settings)


def test_class_weights_are_refused():
    with pytest.raises(BadInput, match="give it no class weights"):
        AEFOCL(C).observe(*imbalanced(), ClassWeights((1.0,) * C))


def test_sums_without_moments_are_solved_as_they_are():
    x, labels = imbalanced()
    model = AEFOCL(C, Identity())
    sums = model.observe(x, labels).sums
    assert isinstance(sums, GramStats) and torch.equal(model.fit(sums), sums.solve(0.1))
