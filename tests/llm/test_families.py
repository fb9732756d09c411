"""Every family against brute force: one backward a text, clipped, added."""

import math

import numpy as np
import pytest
import torch

from fedlab.llm.adapters import UNBOUNDED, Adapters, family_of
from fedlab.llm.objectives import LOSSES, Example, Examples, kind_of
from fedlab.privacy.dpsgd import DPSGD
from tests.llm.families import FAMILIES, VOCABULARY, model_of

TOLERANCE = 2e-5
"""Of sums of gradients, in clips: a norm is a sum over some 10^4 products in float32, whose rounding of 6e-8 grows
with the root of their number, and Opacus adds 1e-6 to a norm."""
FAMILY = pytest.mark.parametrize("family", FAMILIES)
CLIPPING = pytest.mark.parametrize("clipping", ["ghost", "hooks"])


def examples(model, n=5, seed=0):
    """Texts of different lengths, so that all but one are padded."""
    rng, kind = np.random.default_rng(seed), kind_of(model)
    items = []
    for row in range(n):
        source, target = (tuple(rng.integers(4, VOCABULARY, size=size).tolist()) for size in (3, 2 + 3 * row))
        items.append(Example(source, target) if kind != "class" else Example(source + target, row % 3))
    return Examples(items, kind)


def prepared(family, adapters, seed=0):
    """A model to train, its adapters away from where they begin, for there half of the gradients vanish."""
    model = adapters.prepare(model_of(family, seed), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return model


def trained(module):
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def by_hand(model, data):
    loss, named = LOSSES[data.kind], trained(model)
    gradients = [
        torch.autograd.grad(loss(model, data[[row]]).sum(), list(named.values())) for row in range(len(data))
    ]
    norms = [math.sqrt(sum(float(g.double().square().sum()) for g in gradient)) for gradient in gradients]
    clip = float(np.median(norms))  # half of them are clipped
    total = {name: torch.zeros_like(p) for name, p in named.items()}
    for gradient, norm in zip(gradients, norms, strict=True):
        for name, g in zip(named, gradient, strict=True):
            total[name] += g * min(1.0, clip / norm)
    return total, clip


def moved(model, data, rule):
    """What one step of learning rate 1 subtracted."""
    named = trained(model)
    before = {name: p.detach().clone() for name, p in named.items()}
    optimizer = torch.optim.SGD(named.values(), lr=1.0)
    rule.train(model, data, LOSSES[data.kind], optimizer, torch.Generator().manual_seed(0))
    return {name: before[name] - p.detach() for name, p in named.items()}


def check(model, clipping):
    model.train()
    data = examples(model)
    expected, clip = by_hand(model, data)
    found = moved(model, data, DPSGD(clip, 0.0, 1.0, 1, 1.0, 3, clipping))
    assert list(found) == list(expected)
    for name, gradient in expected.items():
        apart = float((found[name] - gradient).abs().max())
        # The difference of two weights, too, is known to their own rounding only.
        size = float(dict(model.named_parameters())[name].detach().abs().max())
        assert apart <= TOLERANCE * clip + 2e-7 * size, (name, apart, clip)


@FAMILY
@CLIPPING
@pytest.mark.parametrize("kind", ["lora", "frozen_embeddings"])
def test_a_step_is_the_sum_of_gradients_clipped_text_by_text(family, kind, clipping):
    check(prepared(family, Adapters(kind, rank=3)), clipping)


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_that_can_be_bounded_is_trained_in_full(family):
    model = prepared(family, Adapters("full"))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    named = UNBOUNDED.get(family_of(model), ())
    assert all(any(part in name for part in named) for name in frozen) and bool(frozen) == bool(named)
    check(model, "hooks")
