import numpy as np
import pytest
import torch

from clients.sgd import SGD
from fedlab.analytic import RandomReLU
from fedlab.errors import BadInput
from fedlab.gradient import CNN, Hidden, Linear
from tests.draws import samples
from tests.tolerance import assert_near, rounding


def drawn(learner, d, seed=0):
    """A model with no zero in it."""
    rng = np.random.default_rng(seed)
    start = learner.initial(d, seed)
    return {name: rng.normal(size=array.shape).astype(np.float32) for name, array in start.items()}


def softmax_gradient(model, x, labels):
    """grad CE of a linear head by hand: (p - y)'x / n and the mean of p - y."""
    logits = x @ model["weight"].T + model["bias"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(x)), labels] -= 1
    return {"weight": p.T @ x / len(x), "bias": p.mean(0)}


@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_a_step_is_the_softmax_gradient_and_the_proximal_pull(mu, device):
    x, labels = samples(6, 4, device=device)
    learner = SGD(3, batch_size=6, learning_rate=0.5, epochs=2)
    start = drawn(learner, 4)
    trained, metrics = learner.train(start, {"proximal-mu": mu}, x, labels, 0)
    features, targets = x.cpu().numpy(), labels.cpu().numpy()
    w = {name: array.astype(np.float64) for name, array in start.items()}
    for _ in range(2):  # at the first step the proximal term vanishes: w = w_global
        gradient = softmax_gradient(w, features, targets)
        w = {name: w[name] - 0.5 * (gradient[name] + mu * (w[name] - start[name])) for name in w}
    assert all(array.dtype == np.float32 for array in trained.values())
    assert_near(trained, w, 2 * (4 + 3 + 6))  # of two steps: d terms of a logit, c of a softmax, n of a gradient
    assert metrics["num-examples"] == 6


def test_a_large_pull_keeps_the_client_near_the_global_model():
    x, labels = samples(40, 4)
    learner = SGD(3, epochs=5, learning_rate=0.05)
    start = drawn(learner, 4)
    moved = []
    for mu in (0.0, 1.0, 10.0):
        trained, _ = learner.train(start, {"proximal-mu": mu}, x, labels, 0)
        moved.append(float(np.linalg.norm(trained["weight"] - start["weight"])))
    assert moved[0] > moved[1] > moved[2] > 0


def test_momentum_accumulates():
    x, labels = samples(6, 4)
    start = drawn(SGD(3), 4)
    rate, beta = 0.1, 0.9
    trained, _ = SGD(3, batch_size=6, learning_rate=rate, epochs=2, momentum=beta).train(start, {}, x, labels, 0)
    first = softmax_gradient(start, x.numpy(), labels.numpy())
    middle = {name: start[name] - rate * first[name] for name in start}
    second = softmax_gradient(middle, x.numpy(), labels.numpy())
    expected = {name: middle[name] - rate * (beta * first[name] + second[name]) for name in start}
    assert_near(trained, expected, 2 * (4 + 3 + 6))


@pytest.mark.parametrize("network", [Linear(), Hidden(8)])
def test_the_seed_decides_the_order_of_the_batches(network):
    x, labels = samples(50, 4)
    learner = SGD(3, RandomReLU(width=12), network=network)
    start = drawn(learner, 4)
    a, b, c = (learner.train(start, {}, x, labels, seed)[0] for seed in (1, 1, 2))
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["weight"], c["weight"])
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    learner.train(start, {}, x, labels, 3)
    assert torch.equal(torch.rand(1), expected)  # the global state is not touched


@pytest.mark.parametrize("network", [Linear(), Hidden(16)])
def test_training_lowers_the_loss_and_leaves_its_input(network):
    x, _ = samples(200, 4)
    labels = (x[:, 0] > 0).long()
    learner = SGD(2, network=network, epochs=10)
    start = learner.initial(4, seed=0)
    kept = {name: array.copy() for name, array in start.items()}
    for array in start.values():
        array.setflags(write=False)
    trained, metrics = learner.train(start, {}, x, labels, 0)
    assert all(np.array_equal(start[name], kept[name]) for name in start)
    assert 0 < metrics["train-loss"] < np.log(2)
    predicted = learner.scores(trained, learner.features(x)).argmax(1)
    assert float((predicted == labels).double().mean()) > 0.9


def test_the_initial_model_is_the_same_for_everyone():
    linear = SGD(3, RandomReLU(width=12)).initial(4, seed=1)
    assert {n: a.shape for n, a in linear.items()} == {"weight": (3, 12), "bias": (3,)}
    assert not any(array.any() for array in linear.values())
    network = SGD(3, network=Hidden(8))
    a, b, c = network.initial(4, 1), network.initial(4, 1), network.initial(4, 2)
    assert np.array_equal(a["hidden.weight"], b["hidden.weight"])
    assert not np.array_equal(a["hidden.weight"], c["hidden.weight"])
    assert float(np.abs(a["hidden.weight"]).max()) <= np.sqrt(6 / 4)


@pytest.mark.parametrize("network", [Linear(), Hidden(8)])
def test_an_empty_client_returns_the_model_it_was_given(network):
    learner = SGD(3, network=network, epochs=3)
    start = drawn(learner, 4)
    x, labels = samples(0, 4)
    trained, metrics = learner.train(start, {"proximal-mu": 0.1}, x, labels, 0)
    assert all(np.array_equal(trained[name], start[name]) for name in start)
    assert metrics == {"num-examples": 0, "train-loss": 0.0}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (x, y + 3), r"lies outside 0\.\.2"),
        (lambda x, y: (x, y - 5), r"lies outside 0\.\.2"),
        (lambda x, y: (x, y.double()), "labels have type torch.float64"),
        (lambda x, y: (x, y[:-1]), r"expected \(6,\)"),
        (lambda x, y: (x * float("nan"), y), "NaN or infinite"),
        (lambda x, y: (x[0], y), "features have shape"),
    ],
)
def test_bad_samples_are_refused_before_the_first_step(spoil, message):
    learner = SGD(3)
    start = drawn(learner, 4)
    kept = {name: array.copy() for name, array in start.items()}
    with pytest.raises(BadInput, match=message):
        learner.train(start, {}, *spoil(*samples(6, 4)), 0)
    assert all(np.array_equal(start[name], kept[name]) for name in start)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_classes", 0),
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("momentum", 1.0),
    ],
)
def test_a_setting_out_of_range_is_named(name, value):
    with pytest.raises(BadInput, match=f"{name}={value}"):
        SGD(**{"num_classes": 3, name: value})


MODELS = pytest.mark.parametrize(
    ("network", "d"), [(Linear(), 5), (Hidden(7), 5), (CNN((6, 7, 2), (3, 4), 5), 84)], ids=["linear", "hidden", "cnn"]
)
RULES = pytest.mark.parametrize(
    ("rule", "mu"),
    [({}, 0.0), ({"epochs": 3, "momentum": 0.9}, 0.0), ({"epochs": 2}, 0.5), ({"momentum": 0.5}, 0.5)],
    ids=["plain", "momentum", "proximal", "both"],
)
SIZES = [0, 23, 1, 4, 0, 11, 5, 4, 40, 8]  # none, one, less than a batch, whole batches, a short last one


def clients(sizes, d, c=3):
    drawn = [samples(n, d, c, seed=i) for i, n in enumerate(sizes)]
    return [x for x, _ in drawn], [labels for _, labels in drawn]


def furthest(some, others):
    """The largest |a - b| / |b| of any client's model."""

    def flat(model):
        return np.concatenate([array.ravel() for array in model.values()]).astype(np.float64)

    pairs = [(flat(a[0]), flat(b[0])) for a, b in zip(some, others, strict=True)]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


STEPS = rounding(30 * 100)
"""Relative, float32: 30 steps of at most 10 batches and 3 epochs, each of about 100 roundings."""


@MODELS
@RULES
def test_many_at_once_are_each_alone(network, d, rule, mu):
    learner = SGD(3, network=network, batch_size=4, **rule)
    start = {name: array / 4 for name, array in drawn(learner, d).items()}
    kept = {name: array.copy() for name, array in start.items()}
    xs, labels = clients(SIZES, d)
    config, order = {"proximal-mu": mu}, range(100, 100 + len(SIZES))
    many = learner.train_many(start, config, xs, labels, list(order))
    one_by_one = [learner.train(start, config, *client) for client in zip(xs, labels, order, strict=True)]
    assert many is not None
    assert furthest(many, one_by_one) <= STEPS
    for (model, told), (alone, expected) in zip(many, one_by_one, strict=True):
        assert {name: (a.shape, a.dtype) for name, a in model.items()} == {
            name: (a.shape, a.dtype) for name, a in alone.items()
        }
        assert told["num-examples"] == expected["num-examples"]
        assert told["train-loss"] == pytest.approx(expected["train-loss"], rel=STEPS)
    assert all(np.array_equal(start[name], kept[name]) for name in start)
    assert furthest(many, [(start, {})] * len(SIZES)) > 0.01  # they moved, by more than the tolerance


def test_company_and_order_do_not_matter():
    learner = SGD(3, RandomReLU(width=30), Hidden(8), batch_size=4, epochs=2)
    start = drawn(learner, 4)
    sizes = [n for n in SIZES if n] * 3
    xs, labels = clients(sizes, 4)
    seeds = list(range(len(sizes)))
    whole = learner.train_many(start, {}, xs, labels, seeds)
    assert whole is not None
    again = learner.train_many(start, {}, xs, labels, seeds)
    assert again is not None and furthest(whole, again) == 0
    backwards = learner.train_many(start, {}, xs[::-1], labels[::-1], seeds[::-1])
    assert backwards is not None and furthest(whole, backwards[::-1]) <= STEPS
    halves = [learner.train_many(start, {}, xs[i::2], labels[i::2], seeds[i::2]) for i in (0, 1)]
    for i, half in enumerate(halves):
        assert half is not None and furthest(whole[i::2], half) <= STEPS


def test_clients_that_are_better_asked_one_by_one():
    xs, labels = clients([20, 0, 0], 4)
    assert SGD(3).train_many(SGD(3).initial(4, 0), {}, xs, labels, [0, 1, 2]) is None, "one has samples"
    large = SGD(3, network=Hidden(200_000))
    xs, labels = clients([20, 20], 4)
    assert large.train_many(large.initial(4, 0), {}, xs, labels, [0, 1]) is None
    assert SGD(3).train_many(SGD(3).initial(4, 0), {}, xs, labels, [0, 1]) is not None


@pytest.mark.parametrize("spoil", [lambda x, y: (x * float("nan"), y), lambda x, y: (x, y + 3)])
def test_samples_that_are_refused_leave_each_client_to_itself(spoil):
    xs, labels = clients([6, 6], 4)
    xs[1], labels[1] = spoil(xs[1], labels[1])
    assert SGD(3).train_many(drawn(SGD(3), 4), {}, xs, labels, [0, 1]) is None


def test_a_client_that_diverges_spoils_no_other():
    xs, labels = clients([12, 12, 7], 4)
    xs[0] = xs[0] * 1e30
    learner = SGD(3, batch_size=4, epochs=3, learning_rate=1e20)
    start = drawn(learner, 4)
    many = learner.train_many(start, {}, xs, labels, [0, 1, 2])
    assert many is not None and not np.isfinite(many[0][0]["weight"]).all()
    calm = SGD(3, batch_size=4, epochs=3)
    many = calm.train_many(start, {}, xs, labels, [0, 1, 2])
    alone = [calm.train(start, {}, x, y, i) for i, (x, y) in enumerate(zip(xs, labels, strict=True))]
    assert many is not None and furthest(many[1:], alone[1:]) <= STEPS
