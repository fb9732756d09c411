import pytest
import torch

from clients.acil import ACIL
from clients.air import AIR
from fedlab.analytic import Identity, RandomReLU
from fedlab.errors import BadInput
from fedlab.stats import ClassCounts, ClassWeights, one_hot, total_of, unpack
from tests.draws import samples

MODES = pytest.mark.parametrize("mode", ["float64", "exact"])
D0, D, C = 6, 24, 4
COUNTS = [200, 40, 8, 2]


def tailed(seed=0):
    """A long tail: 200, 40, 8, 2 samples."""
    x, _ = samples(sum(COUNTS), D0, C, seed)
    labels = torch.arange(C).repeat_interleave(torch.tensor(COUNTS))
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[shuffled], labels[shuffled]


@MODES
def test_tau_zero_is_acil(mode):
    x, labels = tailed()
    mild = AIR(C, RandomReLU(D), mode, tau=0.0)
    acil = ACIL(C, RandomReLU(D), mode)
    theirs = acil.observe(x, labels)
    head = mild.fit(mild.observe(x, labels))
    second = mild.observe(x, labels, ClassWeights.tempered(COUNTS, 0.0))
    if mode == "exact":
        assert mild.observe(x, labels).tempered(0.0).sha256 == theirs.sha256 == second.sha256
        assert torch.equal(head, acil.fit(theirs))
    assert torch.allclose(head, acil.fit(theirs), rtol=0, atol=1e-10)


@MODES
def test_whole_weights_are_acil_on_replicated_data(mode):
    x, labels = tailed()
    times = torch.tensor([1, 5, 25, 100])
    copies = torch.arange(len(x)).repeat_interleave(times[labels])
    acil = ACIL(C, RandomReLU(D), mode)
    theirs = acil.observe(x[copies], labels[copies])
    weights = ClassWeights(tuple(times.double().tolist()))
    model = AIR(C, RandomReLU(D), mode)
    for found in (model.observe(x, labels).weighted(weights), model.observe(x, labels, weights)):
        if mode == "exact":
            assert torch.equal(found.gram, theirs.gram) and torch.equal(found.cross, theirs.cross)
            assert torch.equal(found.solve(0.1), acil.fit(theirs))
        assert torch.allclose(found.solve(0.1), acil.fit(theirs), rtol=0, atol=1e-10)


@MODES
@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_the_head_minimises_the_papers_objective(mode, tau):
    x, labels = tailed()
    model = AIR(C, RandomReLU(D), mode, tau=tau)
    weight = model.fit(model.observe(x, labels), 0.1)
    p = torch.tensor([n**-tau for n in COUNTS], dtype=torch.float64)
    p = (p / p.mean())[labels]
    h, y = model.features(x), one_hot(labels, C)
    direct = torch.linalg.solve(h.T @ (p[:, None] * h) + 0.1 * torch.eye(D).double(), h.T @ (p[:, None] * y))
    # Exact weights are rounded to 17 bits.
    assert float((weight - direct).abs().max()) <= (1e-4 if mode == "exact" else 1e-10)


@MODES
def test_two_rounds_give_the_head_of_the_sums_class_by_class(mode):
    x, labels = tailed()
    parts = list(zip(x.split(30), labels.split(30), strict=True))
    once, twice = AIR(C, RandomReLU(D), mode), AIR(C, RandomReLU(D), mode, form="two_rounds")
    server = total_of(unpack(once.train({}, {}, *part, 0)[0]) for part in parts)
    counts = ClassCounts(torch.zeros(C, dtype=torch.int64))
    for part in parts:
        counts = counts + unpack(twice.train({}, {}, *part, 0)[0])
    assert counts.class_counts.tolist() == COUNTS
    sent = {"class-weights": list(ClassWeights.tempered(COUNTS, twice.tau).values)}
    total = total_of(unpack(twice.train({}, sent, *part, 0)[0]) for part in parts)
    if mode == "exact":
        assert total.sha256 == server.tempered(1.0).sha256
        assert torch.equal(twice.fit(total), once.fit(server))
    assert torch.allclose(twice.fit(total), once.fit(server), rtol=0, atol=1e-10)


@MODES
@pytest.mark.parametrize("form", ["per_class", "two_rounds"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_sum_in_the_worker_is_the_sum_of_the_answers_and_counts_their_bytes(mode, form, weighted):
    x, labels = tailed()
    sizes = [100, 3, 0, 147]
    model = AIR(C, RandomReLU(D), mode, form=form)
    config = {"class-weights": list(ClassWeights.tempered(COUNTS).values)} if weighted else {}
    answers = [model.train({}, config, *part, 0)[0] for part in zip(x.split(sizes), labels.split(sizes), strict=True)]
    packed, num_bytes = model.train_in_total(x, labels, sizes, {}, config)
    assert num_bytes == sum(array.nbytes + 128 for answer in answers for array in answer.values())
    total, found = unpack(answers[0]), unpack(packed)
    for answer in answers[1:]:
        total = total + unpack(answer)
    assert total.class_counts.tolist() == found.class_counts.tolist() == COUNTS
    if not isinstance(total, ClassCounts):
        assert torch.allclose(model.fit(total), model.fit(found), rtol=0, atol=1e-10)
        assert mode == "float64" or total.sha256 == found.sha256


def test_the_tail_is_recognised_where_acil_gives_it_up():
    # Two clouds that overlap, 400 to 10: the unweighted head calls nearly everything common.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(410, 4, generator=generator, dtype=torch.float64) * 0.25
    labels = torch.tensor([0] * 400 + [1] * 10)
    x[400:, 0] += 0.4
    x[:, 3] = 1.0
    test = torch.randn(400, 4, generator=generator, dtype=torch.float64) * 0.25
    truth = torch.arange(400) % 2
    test[:, 0] += 0.4 * truth
    test[:, 3] = 1.0
    recall = {}
    for model in (AIR(2, Identity(), limit=2.0), ACIL(2, Identity(), limit=2.0)):
        predicted = model.predict(model.fit(model.observe(x, labels)), test)
        hits = (predicted == truth).double()
        recall[type(model)] = float(hits[truth == 0].mean() + hits[truth == 1].mean()) / 2
    assert recall[AIR] > recall[ACIL] + 0.15


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": -1.0}, r"tau=-1\.0 must be a finite number in \[0, 2\]"),
        ({"tau": float("nan")}, "tau=nan"),
        ({"form": "two_round"}, "unknown form 'two_round'.*did you mean 'two_rounds'"),
    ],
)
def test_a_learner_that_cannot_be_is_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        AIR(C, **settings)


def test_weights_of_other_classes_and_uncounted_samples_are_refused():
    x, labels = tailed()
    model = AIR(C, RandomReLU(D))
    with pytest.raises(BadInput, match=r"class-weights have shape \(3,\): expected \(4,\)"):
        model.train({}, {"class-weights": [1.0, 1, 1]}, x, labels, 0)
    with pytest.raises(BadInput, match=r"2 samples of the classes \[3\] have no weight"):
        model.train({}, {"class-weights": [1.0, 1, 1, 0]}, x, labels, 0)
    with pytest.raises(BadInput, match=r"2 samples of the classes \[3\] have no weight"):
        model.train_in_total(x, labels, [len(x)], {}, {"class-weights": [1.0, 1, 1, 0]})
