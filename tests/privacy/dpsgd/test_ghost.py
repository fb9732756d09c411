"""The clipped sum in one pass, layer by layer, against autograd; what it keeps, and what it refuses."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fedlab.errors import BadInput
from fedlab.privacy.dpsgd.ghost import _Again, _Kept, _Product
from fedlab.privacy.dpsgd.per_sample import per_sample
from fedlab.privacy.dpsgd.private_gradient import DPSGD
from tests.privacy.dpsgd.test_private_gradient import TEXTS, Text, by_hand, close, moved, next_word, samples

N, T = 4, 3


class Twice(nn.Module):
    """A norm, which Opacus knows no ghost of, that serves two layers."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x):
        return self.norm(self.linear(self.norm(x)))


LAYERS = [
    pytest.param(lambda: nn.Linear(6, 5), (T - 1, 6), _Product, id="linear, few positions"),
    pytest.param(lambda: nn.Linear(6, 5), (9, 6), _Kept, id="linear, many positions"),
    pytest.param(lambda: nn.Linear(6, 5), (2, 5, 6), _Kept, id="linear, two axes of positions"),
    pytest.param(lambda: Conv1D(5, 6), (T - 1, 6), _Product, id="GPT-2's, few positions"),
    pytest.param(lambda: Conv1D(5, 6), (9, 6), _Kept, id="GPT-2's, many positions"),
    pytest.param(lambda: nn.LayerNorm(6), (T, 6), _Kept, id="norm"),
    pytest.param(Twice, (T, 6), None, id="norm that serves twice"),
    pytest.param(lambda: nn.Conv1d(6, 50, 2), (6, 3), _Again, id="convolution, small image"),
    pytest.param(lambda: nn.Conv1d(2, 3, 2), (2, 30), _Kept, id="convolution, large image"),
]


@pytest.mark.parametrize(("make", "shape", "kept"), LAYERS)
def test_norms_and_the_weighted_sum_are_autograds(make, shape, kept):
    torch.manual_seed(0)
    layer = make().double()
    x, direction = torch.randn(N, *shape).double(), None
    with torch.no_grad():
        direction = torch.randn_like(layer(x))
    each = [torch.autograd.grad((layer(x[i : i + 1]) * direction[i]).sum(), list(layer.parameters())) for i in range(N)]
    factors = torch.rand(N, dtype=torch.float64)
    with per_sample(layer, None, 1.0, "ghost") as gradients:
        ghost = gradients._ghost
        norms = ghost.norms((layer(x) * direction).flatten(1).sum(1))
        weight = next(layer.parameters())
        if kept is not None:
            assert {type(found) for found in ghost._sums if found.parameter is weight} == {kept}
        ghost.add(factors)
    for index, p in enumerate(layer.parameters()):
        own = torch.stack([gradient[index] for gradient in each])
        torch.testing.assert_close(norms[p], own.flatten(1).norm(dim=1))
        torch.testing.assert_close(p.grad, torch.tensordot(factors, own, dims=1))
    assert not layer._forward_hooks and "ft_compute_sample_grad" not in vars(layer)


def test_the_gradient_of_the_batch_is_never_computed():
    layer = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    asked = []
    for p in layer.parameters():
        p.register_hook(lambda _: asked.append(1))
    with per_sample(layer, None, 1.0, "ghost") as gradients:
        gradients._ghost.norms(layer(torch.randn(5, 3)).sum(1))
    assert not asked


def test_what_is_changed_in_place_is_refused():
    module = nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    rule = DPSGD(1.0, 1.0, 0.5, 2, 1.0)

    def losses(module, batch):
        return nn.functional.cross_entropy(module(batch[0]), batch[1], reduction="none")

    with pytest.raises(BadInput, match=r"Linear saw or returned was changed in place.*inplace=False"):
        rule.train(module, samples(4, 5), losses, optimizer, torch.Generator())


def test_an_embedding_is_summed_by_calling_it_again():
    module = Text(positions="each").double()
    expected, clip = by_hand(module, TEXTS, loss=next_word)
    found = moved(module, TEXTS, DPSGD(clip, 0.0, 1.0, 1, 1.0, 8), loss=next_word)
    close(found, expected)
