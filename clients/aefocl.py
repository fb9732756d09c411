"""AEF-OCL's client: online learning of imbalanced streams without exemplars.

    observe(X, Y) = (h'h, h'Y, n), (n_y, mu_y, var_y)        fit = fill every class to n_max as it scatters, solve

Beside ACIL's sums of expanded features a client adds count, mean and variance of the backbone's features per
class. Whoever holds the sum draws pseudo-features from them when a head is wanted, so that rare classes count
like common ones (`fedlab.analytic.pseudo_features`); they are never kept, and with balanced classes none is
drawn and the head is ACIL's.

Zhuang, Fang et al., Online Analytic Exemplar-Free Continual Learning with Large Models for Imbalanced
Autonomous Driving Task, 2024, https://arxiv.org/abs/2405.17779. h = relu(x B) (n, d), n_y samples of class y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from fedlab.analytic import ContinualLearner, balanced
from fedlab.analytic.learner import EMPTY
from fedlab.analytic.pseudo_features import check_drawing
from fedlab.errors import BadInput
from fedlab.method import Arrays, Config
from fedlab.stats import ClassMoments, ClassWeights, GramStats, WithMoments, pack
from fedlab.stats.serialization.packed_size import HEADER
from fedlab.stats.serialization.wire import pack_moments

KIND = HEADER + 8
"""Bytes of the array that says what the others are."""


@dataclass(frozen=True)
class AEFOCL(ContinualLearner):
    """The analytic exemplar-free online continual learner.

    Args:
        spread: Scatter s >= 0 of pseudo-features: 1 as the samples do.
        seed: Seed of the pseudo-features.
        num_classes, expansion, mode, limit, bits, min_samples: As `Analytic` has them.
    """

    spread: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_drawing(self.spread, self.seed)

    def observe(self, x: Tensor, labels: Tensor, weights: ClassWeights | None = None) -> WithMoments:
        """Return sums and moments of these samples; classes are balanced by pseudo-features, not by weights."""
        if weights is not None:
            raise BadInput("AEF-OCL balances classes by pseudo-features: give it no class weights")
        return WithMoments(self.observe_sums(x, labels), self._moments(x, labels))

    def _moments(self, x: Tensor, labels: Tensor) -> ClassMoments:
        if self.mode == "float64":
            return ClassMoments.of(x, labels, self.num_classes)
        q, _ = self.fixed.encode(x)
        return ClassMoments.of(q, labels, self.num_classes, self.fixed.scale)

    def fit(self, statistics: WithMoments | GramStats, ridge: float | str = 0.1) -> Float64[Tensor, "d c"]:
        """Return the head with every seen class filled to the size of the largest."""
        if isinstance(statistics, WithMoments):
            statistics = balanced(statistics, self, self.spread, self.seed)
        return statistics.solve(ridge)

    def train_in_total(
        self, x: Tensor, labels: Tensor, sizes: Sequence[int], arrays: Arrays = EMPTY, config: Config = EMPTY
    ) -> tuple[dict[str, np.ndarray], int]:
        """Return the packed sum of what `train` answers for many clients, and the bytes of all those answers."""
        x, labels, sizes = self.admit(x, labels, sizes)
        sums, num_bytes = self.sum_clients(x, labels, sizes)
        whole = WithMoments(sums, self._moments(x, labels))
        for part, target in zip(x.split(list(sizes)), labels.split(list(sizes)), strict=True):
            moments = pack_moments(self._moments(part, target)).values()
            num_bytes += KIND + sum(array.nbytes + HEADER for array in moments)
        return pack(whole), num_bytes
