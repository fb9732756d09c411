"""Which clients share a stack, and that it stays as small as it says."""

import pytest
import torch

from fedlab.gradient import Descent, Hidden, Linear, Stacked
from fedlab.gradient.stacked import SAMPLE_BYTES, STACK_BYTES


def stacked(network, d, **rule):
    start = {name: torch.from_numpy(array) for name, array in network.initial(d, 10, 0).items()}
    return Stacked(network, Descent(**rule), d, 10), start


@pytest.mark.parametrize("rule", [{}, {"momentum": 0.9}, {"proximal": 0.1}])
@pytest.mark.parametrize(("network", "d"), [(Linear(), 2048), (Hidden(64), 64), (Hidden(300), 100)])
def test_a_stack_keeps_to_its_budget(network, d, rule):
    stack, start = stacked(network, d, **rule)
    sizes = [0, 3, 50, *range(200), 0, 10_000]
    groups = stack.groups(start, sizes)
    assert sorted(i for group in groups for i in group) == [i for i, n in enumerate(sizes) if n]
    arrays = (2 if rule else 1) * 4 * sum(array.numel() for array in start.values())
    for group in groups:
        ordered = [sizes[i] for i in group]
        assert ordered == sorted(ordered, reverse=True)
        if len(group) > 1:
            assert len(group) * arrays <= STACK_BYTES
            assert sum(ordered) * d * 4 <= SAMPLE_BYTES
    assert max(map(len, groups)) > 2
    assert groups == stack.groups(start, sizes)


def test_few_large_clients_share_less():
    stack, start = stacked(Linear(), 2048)
    few = stack.groups(start, [1] * 100)
    assert len(few) < len(stack.groups(start, [10] * 100))


def test_a_stack_of_large_models_does_not_pay():
    for network, d, pays in ((Linear(), 64, True), (Hidden(64), 64, True), (Hidden(4096), 3072, False)):
        stack, start = stacked(network, d)
        assert stack.pays(start) is pays
        assert stack.pays(start) == (len(stack.groups(start, [10, 10])) == 1)
