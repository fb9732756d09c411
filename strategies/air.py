"""AIR in two rounds: first everyone's counts, then one sum that is weighted already.

    n_y = sum_k n_y,k        p_y ~ n_y^-tau        W = (sum_k sum_y p_y G_y,k + g I)^-1 sum_k sum_y p_y C_y,k

A step of a stream takes both rounds. When classes return, samples of earlier steps weigh anew: clients keep what
they have (`memory: null` in the config of the method) and send the weighted sum of all of it, d^2 numbers, so the
server keeps no sum class by class. The head is that of `Continual` with `Tempered`; of a client that is silent in
the second round nothing is in it, although its samples were counted.

Fang et al., AIR, 2024, https://arxiv.org/abs/2408.10349. n_y,k samples of class y on client k, G_y,k = h_y,k'h_y,k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord

from fedlab.engine.aggregation.closed_form import ClosedForm
from fedlab.engine.aggregation.protocol import Protocol, Round, Step
from fedlab.stats import ClassCounts, ClassWeights, GramStats, StatisticsTotal, unpack
from fedlab.stats.class_weights import check_tau


def _adding(name: str, total: StatisticsTotal, close: Callable[[int], None], **more: Any) -> Step:
    """Return a step that adds the statistics in the answers as they arrive."""
    return Step(
        name,
        check=lambda node, answer: unpack(answer),
        take_in=lambda node, statistics: total.add(statistics),
        close=close,
        at_once=True,
        **more,
    )


class TwoRounds(Protocol, ClosedForm):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Ask for counts in odd rounds and for sums with their weights in even ones.

    Args:
        ridge: Ridge g >= 0, or 'gcv'.
        tau: Tempering: 0 weights every sample alike, 1 every class.

    Raises:
        BadInput: `tau` is out of range.
    """

    remembered = ("counts", "statistics", "solution")

    def __init__(self, ridge: float | str = 0.1, tau: float = 1.0):
        check_tau(tau)
        self.ridge, self.tau = ridge, tau
        self.counts: ClassCounts | None = None

    @property
    def steps(self) -> Sequence[Step]:
        """Counts, then sums with the weights that follow from them."""
        counts, sums = StatisticsTotal(ClassCounts), StatisticsTotal(GramStats)
        return (
            _adding("counts", counts, lambda _: self._count(counts.result())),
            _adding("sums", sums, lambda _: self._solve(sums.result()), settings=self._weights),
        )

    def model(self) -> ArrayRecord:
        """Return the head of the last sums."""
        return self.head()

    def _weights(self, now: Round) -> Mapping[str, Any]:
        assert self.counts is not None
        weights = ClassWeights.tempered(self.counts.class_counts.tolist(), self.tau)
        return {"class-weights": list(weights.values)}

    def _count(self, counts: ClassCounts) -> None:
        self.counts = counts

    def _solve(self, statistics: GramStats | None) -> None:
        self.statistics = statistics
        if statistics is not None and statistics.count:
            self.solution = statistics.solution(self.ridge)
