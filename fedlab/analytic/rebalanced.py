"""Joint solutions in which rare classes count: by weights, or by pseudo-features that stand in for samples.

    Tempered    sum_y p_y G_y,  sum_y p_y C_y            p_y ~ n_y^-tau, of the counts so far
    Filled      sums + those of (n_max - n_y) pseudo-features of every class y

Both are asked for anew whenever a head is wanted, from statistics that only add up, so a class that returns
changes what its earlier samples weigh. Fang et al., AIR, 2024, https://arxiv.org/abs/2408.10349; Zhuang et al.,
AEF-OCL, 2024, https://arxiv.org/abs/2405.17779. n_y samples of class y.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedlab.analytic.expansion import Expansion, RandomReLU
from fedlab.analytic.joint import Joint
from fedlab.analytic.learner import Analytic
from fedlab.analytic.pseudo_features import balanced, check_drawing
from fedlab.stats.class_weights import check_tau
from fedlab.stats.gram import GramStats


@dataclass(frozen=True, eq=False)
class Tempered(Joint):
    """Sums class by class (`PerClass`), weighted when a head is wanted.

    Args:
        tau: Tempering: 0 weights every sample alike, 1 every class.
        ridge, total: Ridge and sum, as `Joint` has them.
    """

    tau: float = 1.0

    def __post_init__(self) -> None:
        check_tau(self.tau)

    def sums(self) -> GramStats:
        """Return the weighted sums."""
        return self.total.tempered(self.tau)


@dataclass(frozen=True, eq=False)
class Filled(Joint):
    """Sums and moments (`WithMoments`), filled up when a head is wanted; nothing that is drawn is kept.

    Args:
        expansion, mode, limit, bits: Settings of the learner, as `Analytic` has them: pseudo-features are expanded
            like samples.
        spread: Scatter s >= 0 of pseudo-features: 1 as the samples do.
        seed: Seed of the pseudo-features.
        ridge, total: Ridge and sum, as `Joint` has them.
    """

    expansion: Expansion = field(default_factory=RandomReLU)
    mode: str = "exact"
    limit: float = 1.0
    bits: int = 12
    spread: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_drawing(self.spread, self.seed)
        self._learner(1)  # refuses a setting that cannot be here, and not after the first phase

    def _learner(self, num_classes: int) -> Analytic:
        return Analytic(num_classes, self.expansion, self.mode, self.limit, self.bits)

    def sums(self) -> GramStats:
        """Return the sums with every seen class as large as the largest."""
        return balanced(self.total, self._learner(self.total.num_classes), self.spread, self.seed)
