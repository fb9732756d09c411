"""ACIL's client: class-incremental learning without exemplars, as sums of expanded features.

    h = relu(x B)       W_t = (sum_{s<=t} h_s'h_s + g I)^-1 sum_{s<=t} h_s'Y_s

The paper updates an inverse R recursively, R <- R - R h'(I + h R h')^-1 h R and W <- W + R h'(Y - h W), with
new zero columns for new classes. That equals this joint solution over all phases, in any order; sums need no
inverse, lose no accuracy with the number of phases, and merge over clients.

Zhuang et al., ACIL: Analytic Class-Incremental Learning with Absolute Memorization and Privacy Protection,
NeurIPS 2022, https://arxiv.org/abs/2205.14922. B (d0, d) uniform in +-1/sqrt(d0), fixed by a seed.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedlab.analytic import ContinualLearner


@dataclass(frozen=True)
class ACIL(ContinualLearner):
    """The analytic class-incremental learner.

    Args:
        expansion: Buffer layer: 8192 columns for CIFAR-100, 16384 for ImageNet in the paper.
        num_classes, mode, limit, bits, min_samples: As `Analytic` has them. The classes are those of the whole
            stream: one not yet met is a zero column.
    """
