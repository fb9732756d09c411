"""GACL's client: generalised class-incremental learning, where classes of earlier tasks return.

    W_t = (sum_{s<=t} h_s'h_s + g I)^-1 sum_{s<=t} h_s'[Y_s, 0]

The paper splits a task's labels into exposed and unexposed classes and adds an "exposed class label gain" to
ACIL's recursion. With the labels padded to all classes both are one sum, whether a class is new or returns.

Zhuang et al., GACL: Exemplar-Free Generalized Analytic Continual Learning, NeurIPS 2024,
https://arxiv.org/abs/2403.15706. h = relu(x B) (n, d), Y (n, c).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float64
from torch import Tensor

from fedlab.analytic import Analytic, Expansion, RandomReLU
from fedlab.stats import GramStats


@dataclass(frozen=True)
class GACL(Analytic):
    """The generalised analytic continual learner; its parameters are those of `Analytic`."""

    expansion: Expansion = field(default_factory=RandomReLU)

    def fit(self, statistics: GramStats, ridge: float | str = 0.1) -> Float64[Tensor, "d c"]:
        """Return the head over everything that was observed."""
        return statistics.solve(ridge)
