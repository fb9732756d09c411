"""GACL's client: generalised class-incremental learning, where classes of earlier tasks return.

    W_t = (sum_{s<=t} h_s'h_s + g I)^-1 sum_{s<=t} h_s'[Y_s, 0]

The paper splits a task's labels into exposed and unexposed classes and adds an "exposed class label gain" to
ACIL's recursion. With the labels padded to all classes both are one sum, whether a class is new or returns.

Zhuang et al., GACL: Exemplar-Free Generalized Analytic Continual Learning, NeurIPS 2024,
https://arxiv.org/abs/2403.15706. h = relu(x B) (n, d), Y (n, c).
"""

from __future__ import annotations

from dataclasses import dataclass

from fedlab.analytic import ContinualLearner


@dataclass(frozen=True)
class GACL(ContinualLearner):
    """The generalised analytic continual learner; its parameters are those of `Analytic`."""
