import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from clients.dp_sgd import DPSGD
from fedlab.analytic import RandomReLU
from fedlab.errors import BadInput
from fedlab.gradient import CNN, Hidden, Linear
from fedlab.privacy.accounting.calibration import calibrate
from tests.draws import samples

NETWORKS = [
    pytest.param(Linear(), 5, id="linear"),
    pytest.param(Hidden(7), 5, id="hidden"),
    pytest.param(CNN((6, 7, 2), (3, 4), 5), 84, id="cnn"),
]


def drawn(learner, d, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=a.shape).astype(np.float32) / 2 for name, a in learner.initial(d, seed).items()}


@pytest.mark.parametrize("n", [0, 1, 9])
@pytest.mark.parametrize(("network", "d"), NETWORKS)
def test_all_that_is_said_is_noised_or_the_same_for_everyone(network, d, n):
    learner = DPSGD(3, network=network, noise_multiplier=1.0, sampling_probability=0.5, steps=3)
    start = drawn(learner, d)
    model, told = learner.train(start, {"server-round": 1}, *samples(n, d), 0)
    assert told == {"num-examples": 1}  # not how many samples, and no loss
    assert list(model) == list(start)
    for name, array in model.items():
        assert (array.shape, array.dtype) == (start[name].shape, np.float32)
        assert not (array == start[name]).any()  # every number has noise in it


def test_a_client_without_samples_sends_the_noise_that_is_accounted_for():
    learner = DPSGD(3, epsilon=2.0, rounds=4, steps=2, batch_size=5.0, clip=0.5, learning_rate=0.7)
    start = {"weight": np.zeros((3, 3000), np.float32), "bias": np.zeros(3, np.float32)}
    model, _ = learner.train(start, {}, *samples(0, 3000), 0)
    m = calibrate(2.0, 1e-5, 1.0, 8)
    deviation = 0.7 * m * 0.5 / 5.0 * math.sqrt(2)
    numbers = np.concatenate([array.ravel() for array in model.values()]).astype(np.float64)
    low, high = chi2.ppf([1e-6, 1 - 1e-6], numbers.size)
    statistic = float((numbers**2).sum()) / deviation**2
    assert low < statistic < high and not low < statistic / 4 < high


def test_one_sample_more_moves_a_step_by_the_clip():
    learner = DPSGD(3, noise_multiplier=0.0, batch_size=2.0, clip=0.3, learning_rate=1.0)
    start = drawn(learner, 5)
    x, labels = samples(8, 5)
    whole, _ = learner.train(start, {}, x, labels, 0)
    for k in range(8):
        without = [i for i in range(8) if i != k]
        model, _ = learner.train(start, {}, x[without], labels[without], 0)
        moved = math.sqrt(sum(float(((whole[n] - model[n]).astype(np.float64) ** 2).sum()) for n in whole))
        assert 0 < moved * 2.0 <= 0.3 * (1 + 1e-5)


def test_noise_is_the_seeds_or_the_systems():
    start = drawn(DPSGD(3), 5)
    seeded, system = DPSGD(3, noise_multiplier=1.0), DPSGD(3, noise_multiplier=1.0, entropy="os")
    a, b, c = (seeded.train(start, {}, *samples(6, 5), seed)[0] for seed in (1, 1, 2))
    d, e = (system.train(start, {}, *samples(6, 5), 1)[0] for _ in range(2))
    assert all(np.array_equal(a[n], b[n]) for n in a)
    for one, two in ((a, c), (a, d), (d, e)):
        assert not any(np.array_equal(one[n], two[n]) for n in one)


def test_a_client_that_reckons_with_other_noise_than_the_server_refuses():
    learner = DPSGD(3, noise_multiplier=1.0)
    start = drawn(learner, 5)
    learner.train(start, {"dp-sgd": [1.0, 1.0, 1.0]}, *samples(6, 5), 0)
    with pytest.raises(BadInput, match="the same promise"):
        learner.train(start, {"dp-sgd": [2.0, 1.0, 1.0]}, *samples(6, 5), 0)


@pytest.mark.parametrize("clipping", ["ghost", "hooks"])
def test_it_learns_where_the_promise_is_weak(clipping):
    x, _ = samples(200, 4)
    labels = (x[:, 0] > 0).long()
    learner = DPSGD(
        2, 50.0, 1e-5, 1, 20, 1.0, 200.0, expansion=RandomReLU(width=30), learning_rate=5.0, clipping=clipping
    )
    model, _ = learner.train(learner.initial(4, 0), {}, x, labels, 0)
    predicted = learner.scores(model, learner.features(x)).argmax(1)
    assert float((predicted == labels).double().mean()) > 0.85


def test_the_global_generators_are_not_touched():
    start = drawn(DPSGD(3), 5)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    expected = torch.rand(1), np.random.random()  # noqa: NPY002
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    DPSGD(3, noise_multiplier=1.0).train(start, {}, *samples(6, 5), 3)
    assert (torch.rand(1), np.random.random()) == expected  # noqa: NPY002


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (x, y + 3), r"lies outside 0\.\.2"),
        (lambda x, y: (x * float("nan"), y), "NaN or infinite"),
        (lambda x, y: (x, y[:-1]), r"expected \(6,\)"),
    ],
)
def test_bad_samples_are_refused(spoil, message):
    learner = DPSGD(3, noise_multiplier=1.0)
    start = drawn(learner, 4)
    kept = {name: array.copy() for name, array in start.items()}
    with pytest.raises(BadInput, match=message):
        learner.train(start, {}, *spoil(*samples(6, 4)), 0)
    assert all(np.array_equal(start[name], kept[name]) for name in start)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_classes", 0),
        ("rounds", 0),
        ("steps", 0),
        ("batch_size", 0.0),
        ("clip", -1.0),
        ("sampling_probability", 0.0),
        ("sampling_probability", 2.0),
        ("learning_rate", 0.0),
        ("momentum", 1.0),
    ],
)
def test_a_setting_out_of_range_is_named(name, value):
    with pytest.raises(BadInput, match=f"{name}={value}"):
        DPSGD(**{"num_classes": 3, name: value})


@pytest.mark.parametrize(("name", "value"), [("epsilon", 0.0), ("epsilon", -1.0), ("delta", 0.0), ("delta", 1.0)])
def test_a_promise_out_of_range_is_named(name, value):
    with pytest.raises(BadInput, match=f"{name}={value}"):
        _ = DPSGD(**{"num_classes": 3, name: value}).multiplier
