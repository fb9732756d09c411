"""Memories in which rare classes count: what a learner would fit on all phases together."""

import pytest
import torch

from clients.aefocl import AEFOCL
from clients.air import AIR
from fedlab.analytic import Filled, Identity, Joint, RandomReLU, Tempered
from fedlab.engine.persistence.state import pack, unpack
from fedlab.errors import BadInput
from tests.draws import samples

D0, C = 6, 4
MODES = pytest.mark.parametrize("mode", ["float64", "exact"])


def phases(learner):
    """Three phases, ever fewer samples of the higher classes."""
    for seed, n in enumerate((60, 30, 12)):
        x, labels = samples(n, D0, C, seed)
        yield learner.observe(x, labels.clamp(max=C - 1 - seed))


@MODES
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_a_tempered_memory_is_air(mode, tau):
    learner, memory = AIR(C, RandomReLU(24), mode, tau=tau), Tempered(ridge=0.1, tau=tau)
    for phase in phases(learner):
        memory = memory.add(phase)
        assert torch.equal(memory.solution().weight, learner.fit(memory.total, 0.1))


@MODES
@pytest.mark.parametrize("expansion", [Identity(), RandomReLU(24)])
def test_a_filled_memory_is_aef_ocl_and_keeps_nothing_that_was_drawn(mode, expansion):
    learner = AEFOCL(C, expansion, mode, spread=0.5, seed=3)
    memory = Filled(0.1, expansion=expansion, mode=mode, spread=0.5, seed=3)
    for phase in phases(learner):
        memory = memory.add(phase)
        before = memory.total.sha256
        assert torch.equal(memory.solution().weight, learner.fit(memory.total, 0.1))
        assert memory.total.sha256 == before


@pytest.mark.parametrize("memory", [Joint(), Tempered(), Filled()])
def test_nothing_cannot_be_solved(memory):
    with pytest.raises(BadInput, match="no phase yet"):
        memory.solution()


def test_a_checkpoint_keeps_a_memory():
    learner = AEFOCL(C, RandomReLU(24), spread=0.5)
    memory = Filled(0.1, expansion=RandomReLU(24), spread=0.5).add(next(phases(learner)))
    tree, arrays, left_out = pack({"memory": memory})
    restored = unpack(tree, arrays, {"memory": Filled()})["memory"]
    assert not left_out and torch.equal(restored.solution().weight, memory.solution().weight)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Tempered(tau=-0.1), "tau=-0.1 must be a finite number in"),
        (lambda: Filled(spread=float("nan")), "spread=nan must be a finite number"),
        (lambda: Filled(seed=-1), "seed=-1 must be a whole number >= 0"),
        (lambda: Filled(mode="decimal"), "unknown mode 'decimal'"),
    ],
)
def test_a_memory_that_cannot_be_is_refused(build, said):
    with pytest.raises(BadInput, match=said):
        build()
