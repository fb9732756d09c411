"""AIR in two rounds: first everyone's counts, then one sum that is weighted already.

    n_y = sum_k n_y,k        p_y ~ n_y^-tau        W = (sum_k sum_y p_y G_y,k + g I)^-1 sum_k sum_y p_y C_y,k

A step of a stream takes both rounds. When classes return, samples of earlier steps weigh anew: clients keep what
they have (`memory: null` in the config of the method) and send the weighted sum of all of it, d^2 numbers, so the
server keeps no sum class by class. The head is that of `Continual` with `Tempered`; of a client that is silent in
the second round nothing is in it, although its samples were counted.

Fang et al., AIR, 2024, https://arxiv.org/abs/2408.10349. n_y,k samples of class y on client k, G_y,k = h_y,k'h_y,k.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fedlab.engine.aggregation.closed_form import ClosedForm
from fedlab.stats import ClassCounts, ClassWeights, GramStats, StatisticsTotal
from fedlab.stats.class_weights import check_tau


class TwoRounds(ClosedForm):
    """Ask for counts in odd rounds and for sums with their weights in even ones.

    Parameters
    ----------
    ridge
        g >= 0, or 'gcv'.
    tau
        0 weights every sample alike, 1 every class.

    Raises
    ------
    BadInput
        `tau` is out of range.
    """

    rounds_per_step = 2

    def __init__(self, ridge: float | str = 0.1, tau: float = 1.0):
        check_tau(tau)
        self.ridge, self.tau = ridge, tau
        self.counts: ClassCounts | None = None
        self.statistics: GramStats | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every node: for its counts, or for its sums with the weights that the counts ask for."""
        config = ConfigRecord({**config, "server-round": server_round})
        if server_round % 2 == 0:
            assert self.counts is not None
            weights = ClassWeights.tempered(self.counts.class_counts.tolist(), self.tau)
            config["class-weights"] = list(weights.values)
        return self.ask(grid, config)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add replies as they arrive; solve after an even round.

        Raises
        ------
        BadInput
            No client answered.
        ClientFailed
            More clients' replies are not what was asked for, or do not fit the others', than may fail.
        """
        total = StatisticsTotal(ClassCounts if server_round % 2 else GramStats)
        self.add(replies, total)
        if server_round % 2:
            self.counts = total.result()
        else:
            self.statistics = total.result()
            if self.statistics is not None and self.statistics.count:
                self.solution = self.statistics.solution(self.ridge)
        return self.head(), None

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint keeps."""
        return {"counts": self.counts, "statistics": self.statistics, "solution": self.solution}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` once returned."""
        self.counts, self.statistics, self.solution = (
            state[name] for name in ("counts", "statistics", "solution")
        )

    def report(self) -> dict[str, object]:
        """Return what the last solve says of itself; `notes` is what a reader must know."""
        return self.tell(self.statistics)
