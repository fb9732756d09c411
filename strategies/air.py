"""AIR in two rounds: first everyone's counts, then one sum that is weighted already.

    n_y = sum_k n_y,k        p_y ~ n_y^-tau        W = (sum_k sum_y p_y G_y,k + g I)^-1 sum_k sum_y p_y C_y,k

A step of a stream takes both rounds. When classes return, samples of earlier steps weigh anew: clients keep what
they have (`memory: null` in the config of the method) and send the weighted sum of all of it, d^2 numbers, so the
server keeps no sum class by class. The head is that of `Continual` with `Tempered`; of a client that is silent in
the second round nothing is in it, although its samples were counted.

Fang et al., AIR, 2024, https://arxiv.org/abs/2408.10349. n_y,k samples of class y on client k, G_y,k = h_y,k'h_y,k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord

from fedlab.engine.aggregation.closed_form import ClosedForm
from fedlab.engine.aggregation.protocol import Arrays, Protocol, Round, Step
from fedlab.stats import ClassCounts, ClassWeights, GramStats, StatisticsTotal, unpack
from fedlab.stats.class_weights import check_tau


class Added(Step["TwoRounds"]):
    """A step whose answers are statistics of one kind, added as they arrive."""

    at_once = True

    def __init__(self, server: TwoRounds, kind: type):
        super().__init__(server)
        self.total = StatisticsTotal(kind)

    def check(self, node: int, answer: Arrays) -> Any:
        """Return the statistics."""
        return unpack(answer)

    def take_in(self, node: int, answer: Any) -> None:
        """Add them; what does not fit the others is refused."""
        self.total.add(answer)


class Counts(Added):
    """Everyone's samples per class."""

    def close(self, number: int) -> None:
        """Keep the sum: the weights follow from it."""
        self.server.counts = self.total.result()


class Sums(Added):
    """Everyone's sums, with the weights that the counts ask for."""

    def settings(self, now: Round) -> Mapping[str, Any]:
        """Return the weight of each class."""
        assert self.server.counts is not None
        weights = ClassWeights.tempered(self.server.counts.class_counts.tolist(), self.server.tau)
        return {"class-weights": list(weights.values)}

    def close(self, number: int) -> None:
        """Solve."""
        self.server.statistics = statistics = self.total.result()
        if statistics is not None and statistics.count:
            self.server.solution = statistics.solution(self.server.ridge)


class TwoRounds(Protocol, ClosedForm):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Ask for counts in odd rounds and for sums with their weights in even ones.

    Parameters
    ----------
    ridge
        Ridge g >= 0, or 'gcv'.
    tau
        Tempering: 0 weights every sample alike, 1 every class.

    Raises
    ------
    BadInput
        `tau` is out of range.
    """

    remembered = ("counts", "statistics", "solution")

    def __init__(self, ridge: float | str = 0.1, tau: float = 1.0):
        check_tau(tau)
        self.ridge, self.tau = ridge, tau
        self.counts: ClassCounts | None = None

    @property
    def steps(self) -> Sequence[Step[Any]]:
        """Counts, then sums."""
        return Counts(self, ClassCounts), Sums(self, GramStats)

    def model(self) -> ArrayRecord:
        """Return the head of the last sums."""
        return self.head()
