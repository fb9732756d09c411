"""DS-AL's client: two activations of one projection, summed together; a phase is one sum.

    h = [relu(x B), tanh(x B)]       observe(X, Y) = (h'h, h'Y, n)       fit(phases) = [W_M; r W_C]

The compensation stream learns, on each phase's new classes, the residue that the main stream (ACIL) leaves,
and is added with the ratio r. Its cross term follows from the blocks of h'h (`fedlab.analytic.dual_stream`), so
one pass and one upload per phase are exact, whatever the batches and the clients. The head depends on the
order of the phases through the compensation stream, and not on the order within a phase.

Zhuang et al., DS-AL: A Dual-Stream Analytic Learning for Exemplar-Free Class-Incremental Learning, AAAI 2024,
https://arxiv.org/abs/2403.17503 (r = 0.6 for CIFAR-100, 1.5 for ImageNet; both ridges 0.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Float64
from torch import Tensor

from fedlab.analytic import Analytic, DualReLUTanh, DualStream, Expansion
from fedlab.analytic.dual_stream import number
from fedlab.stats import GramStats


@dataclass(frozen=True)
class DSAL(Analytic):
    """The dual-stream analytic learner.

    Args:
        ratio: Weight r of the compensation stream; 0 is ACIL.
        compensation_ridge: Ridge of the compensation stream.
        num_classes, expansion, mode, limit, bits, min_samples: As `Analytic` has them; the expansion's features are
            two halves.
    """

    expansion: Expansion = field(default_factory=DualReLUTanh)
    ratio: float = 0.6
    compensation_ridge: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stream()

    def stream(self, ridge: float = 0.1, keep_phases: bool = False) -> DualStream:
        """Return the state before the first phase."""
        return DualStream(self.ratio, ridge, self.compensation_ridge, keep_phases)

    def fit(self, statistics: GramStats | Sequence[GramStats], ridge: float | str = 0.1) -> Float64[Tensor, "d c"]:
        """Return the head after these phases, in their order; a single one is one phase."""
        phases = [statistics] if isinstance(statistics, GramStats) else statistics
        state = self.stream(number("ridge", ridge))
        for phase in phases:
            state = state.add(phase)
        return state.solution().weight
