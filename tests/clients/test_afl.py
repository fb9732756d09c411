import numpy as np
import pytest
import torch

from clients.afl import AFL
from fedlab.analytic import RandomReLU
from fedlab.analytic.learner import ROWS
from fedlab.errors import BadInput
from fedlab.stats import FixedPoint, GramStats, one_hot, total_of, unpack
from tests.draws import same, samples

MODES = pytest.mark.parametrize("mode", ["exact", "float64"])


@MODES
def test_statistics_of_the_plain_features_are_those_of_the_batch(mode, device):
    x, labels = samples(12, 5, device=device)
    found = AFL(3, mode=mode, limit=1.0, bits=10).observe(x, labels)
    fixed = FixedPoint(1.0, 10) if mode == "exact" else None
    assert same(found, GramStats.from_batch(x, one_hot(labels, 3), fixed))
    assert found.gram.device.type == device


@MODES
def test_long_batches_are_cut_without_a_trace(mode):
    x, labels = samples(2 * ROWS + 7, 3)
    learner = AFL(3, RandomReLU(width=8), mode)
    whole = learner.observe(x, labels)
    parts = total_of(learner.observe(x[rows], labels[rows]) for rows in torch.arange(len(x)).split(1000))
    assert whole.count == len(x)
    if mode == "exact":
        assert same(whole, parts)
    assert torch.allclose(whole.gram.double(), parts.gram.double(), rtol=1e-12)


@MODES
def test_the_features_that_are_scored_are_those_that_were_summed(mode):
    x, labels = samples(40, 5)
    learner = AFL(3, RandomReLU(width=20), mode)
    h = learner.features(x)
    statistics = learner.observe(x, labels)
    scale = statistics.scale or 1.0
    assert torch.allclose(statistics.gram.double() / scale**2, h.T @ h, rtol=0, atol=1e-12)
    weight = learner.fit(statistics, 0.1)
    assert torch.allclose(weight, GramStats.from_batch(h, one_hot(labels, 3)).solve(0.1), atol=1e-10)
    scores = learner.scores({"weight": weight.numpy()}, h)
    assert torch.equal(scores, h @ weight)
    assert torch.equal(learner.predict(weight, x), scores.argmax(1))
    assert float((learner.predict(weight, x) == labels).double().mean()) > 0.5


@MODES
def test_neither_the_callers_arrays_nor_the_statistics_change(mode):
    x, labels = samples(4, 5)
    kept = x.clone(), labels.clone()
    learner = AFL(3, mode=mode)
    statistics = learner.observe(x, labels)
    digest = statistics.sha256
    assert torch.equal(x, kept[0]) and torch.equal(labels, kept[1])
    x.fill_(0.5)
    assert learner.observe(*kept).sha256 == digest
    fresh = GramStats(statistics.cross, statistics.class_counts, statistics.scale, rows=statistics.rows)
    assert fresh.sha256 == digest


@MODES
def test_features_of_float32_are_summed_in_float64(mode):
    x, labels = samples(30, 5)
    x = x.to(torch.float32)
    assert same(AFL(3, mode=mode).observe(x, labels), AFL(3, mode=mode).observe(x.to(torch.float64), labels))


def test_saturation_is_counted_before_and_after_the_expansion():
    x = torch.tensor([[3.0, 0.2], [0.1, -4.0]])
    labels = torch.tensor([0, 1])
    assert AFL(2).observe(x, labels).saturated == 2
    assert AFL(2, RandomReLU(width=4)).observe(x, labels).saturated >= 2
    assert AFL(2, limit=4.0).observe(x, labels).saturated == 0


def test_the_message_is_the_packed_statistics_and_nothing_else():
    x, labels = samples(6, 5)
    learner = AFL(3)
    assert learner.initial(5, seed=1) == {}
    arrays, metrics = learner.train({}, {"server-round": 1}, x, labels, seed=7)
    assert metrics == {} and same(unpack(arrays), learner.observe(x, labels))
    again, _ = learner.train({}, {}, x, labels, seed=8)
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "exakt"}, "unknown mode 'exakt': known are exact, float64"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"limit": -1.0}, r"limit=-1\.0"),
        ({"bits": 40}, "bits=40"),
    ],
)
def test_a_learner_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(BadInput, match=message):
        AFL(**{"num_classes": 3, **arguments})


@MODES
def test_a_sample_without_a_label_is_refused(mode):
    x, labels = samples(6, 5)
    with pytest.raises(BadInput, match=r"labels have shape \(5,\): expected \(6,\)"):
        AFL(3, mode=mode).observe(x, labels[:5])
