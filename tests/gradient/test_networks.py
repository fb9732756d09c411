"""The networks: their shapes, their starts, and their gradients against those that torch.func finds."""

import numpy as np
import pytest
import torch
from torch.func import grad, vmap
from torch.nn.functional import conv2d, cross_entropy, linear, max_pool2d

from fedlab.errors import BadInput
from fedlab.gradient import CNN, Hidden, Linear
from tests.tolerance import assert_near

C = 3
CHAIN = 500
"""Roundings that lead to a gradient of these networks: the 42 or fewer positions of an image, samples, layers."""
NETWORKS = pytest.mark.parametrize(
    ("network", "d"), [(Linear(), 5), (Hidden(7), 5), (CNN((6, 8, 2), (3, 4), 5), 96)], ids=["linear", "hidden", "cnn"]
)


def drawn(network, d, *stack):
    """A model, or a stack of them, with no zero in it."""
    generator = torch.Generator().manual_seed(0)
    start = network.initial(d, C, 0)
    return {name: torch.randn(*stack, *a.shape, generator=generator) / 2 for name, a in start.items()}


def batch(d, *size):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*size, d, generator=generator), torch.randint(C, size, generator=generator)


@NETWORKS
def test_the_gradient_is_the_one_that_autograd_finds(network, d):
    model, (h, labels) = drawn(network, d, 4), batch(d, 4, 6)
    share = torch.rand(4, 6, generator=torch.Generator().manual_seed(2))
    share[1, 4:] = 0  # rows that fill a batch up

    def loss(one, x, y, s):
        return (cross_entropy(network.logits(one, x), y, reduction="none") * s).sum()

    expected = vmap(grad(loss))(model, h, labels, share)
    into = {name: torch.ones_like(array) for name, array in model.items()}
    before = {name: array.clone() for name, array in model.items()}
    gradient = network.descend(model, h, labels, share, into, -0.5)
    assert_near(gradient, vmap(loss)(model, h, labels, share), CHAIN)
    assert_near(into, {name: 1 - 0.5 * array for name, array in expected.items()}, CHAIN)
    assert all(torch.equal(model[name], before[name]) for name in model)
    network.descend(model, h, labels, share, model, -0.5)  # into the model itself
    assert_near(model, {name: before[name] - 0.5 * array for name, array in expected.items()}, CHAIN)


@NETWORKS
def test_a_stack_is_its_models_side_by_side(network, d):
    stack, (h, labels) = drawn(network, d, 3), batch(d, 3, 5)
    together = network.logits(stack, h)
    into = {name: torch.zeros_like(array) for name, array in stack.items()}
    losses = network.descend(stack, h, labels, torch.full((3, 5), 0.2), into, 1.0)
    for i in range(3):
        model = {name: array[i] for name, array in stack.items()}
        assert_near(together[i], network.logits(model, h[i]), CHAIN)
        alone = {name: torch.zeros_like(array) for name, array in model.items()}
        loss = network.descend(model, h[i], labels[i], torch.full((5,), 0.2), alone, 1.0)
        assert_near(losses[i], loss, CHAIN)
        assert_near({name: array[i] for name, array in into.items()}, alone, CHAIN)


def test_the_convolutions_see_rows_and_columns_of_the_image_as_it_was_flattened():
    network, images = CNN((7, 6, 2), (3, 4), 5), torch.randn(2, 7, 6, 2)
    m = drawn(network, 84)
    maps = conv2d(images.permute(0, 3, 1, 2).contiguous(), m["conv1.weight"], m["conv1.bias"]).relu()
    maps = max_pool2d(conv2d(maps, m["conv2.weight"], m["conv2.bias"]).relu(), 2)
    flat = torch.stack([image.permute(1, 2, 0).reshape(-1) for image in maps])
    hidden = linear(flat, m["hidden.weight"], m["hidden.bias"]).relu()
    assert_near(network.logits(m, images.flatten(1)), linear(hidden, m["weight"], m["bias"]), CHAIN)


def test_the_usual_cnn_has_the_usual_size():
    model = CNN().initial(32 * 32 * 3, 10, 0)
    convolutions = 32 * (3 * 9 + 1) + 64 * (32 * 9 + 1)
    dense = 128 * (14 * 14 * 64 + 1) + 10 * (128 + 1)
    assert sum(array.size for array in model.values()) == convolutions + dense == 1_626_442


@NETWORKS
def test_the_start_is_the_same_for_everyone(network, d):
    a, b, c = (network.initial(d, C, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a[name], b[name]) and a[name].dtype == np.float32 for name in a)
    assert not a["weight"].any() and not a["bias"].any()
    for name in (name for name in a if name not in ("weight", "bias") and name.endswith("weight")):
        assert not np.array_equal(a[name], c[name])
        bound = np.sqrt(6 / a[name][0].size)
        assert 0.5 * bound < np.abs(a[name]).max() <= bound


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hidden(0), "width=0 must be a whole number >= 1: network=linear has no hidden layer"),
        (lambda: CNN(width=0), "width=0"),
        (lambda: CNN(shape=(32, 32)), r"shape=\[32, 32\] must be 3 integers"),
        (lambda: CNN(channels=(32, 0)), r"channels=\[32, 0\] must be 2 integers"),
        (lambda: CNN(shape=(5, 32, 3)), "at least 6x6"),
        (lambda: CNN().initial(64, 10, 0), r"shape=\[32, 32, 3\] is an image of 3072 numbers, but a sample has 64"),
    ],
)
def test_a_network_that_cannot_be_is_refused(make, message):
    with pytest.raises(BadInput, match=message):
        make()
