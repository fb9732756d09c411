"""Learning from a stream: after every round the server holds the exact solution over all that was observed.

    S <- S + sum_k S_k(t)        W(t) = solve(S)        S_k(t) = what client k observed in round t

What S is and how it is solved is the memory's: `Joint` adds (ACIL, GACL, GKEAL), `DualStream` keeps a compensation
stream beside it (DS-AL), `Tempered` weighs classes by their counts so far (AIR), `Filled` draws pseudo-features for
the rare ones (AEF-OCL); they are in `fedlab.stats`. A client that fails, or is not there, is told the rounds that it
missed when it is asked again, and sends what it observed in them too: a sum does not care when its terms arrive.

Zhuang et al., ACIL, NeurIPS 2022, https://arxiv.org/abs/2205.14922; DS-AL, AAAI 2024,
https://arxiv.org/abs/2403.17503; Fang et al., AIR, 2024, https://arxiv.org/abs/2408.10349; Zhuang et al., AEF-OCL,
2024, https://arxiv.org/abs/2405.17779. k clients, t rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from flwr.app import ArrayRecord

from fedlab.analytic import DualStream
from fedlab.engine.aggregation.closed_form import ClosedForm, Phases
from fedlab.engine.aggregation.replies import lost
from fedlab.engine.aggregation.strategy import Messages
from fedlab.engine.messages.partial_sums import StatisticsSum
from fedlab.engine.persistence.statistics_store import Keeper
from fedlab.stats import StatisticsTotal


def in_order(memory: Phases) -> bool:
    """Whether the head depends on the order of the phases, so that each has a total of its own."""
    return isinstance(memory, DualStream)


class Continual(ClosedForm):
    """Ask every client in every round for the statistics of what it observed in it; add them, solve.

    Args:
        memory: Memory before the first round.
        keep_clients: Directory for each client's packed statistics and their totals, so that a client can be
            subtracted later (`fedlab unlearn`); a relative one lies in the run directory. None keeps none.
    """

    remembered = ("memory", "solution", "missed")

    def __init__(self, memory: Phases, keep_clients: str | None = None):
        self.memory = memory
        self.kept = Keeper(keep_clients) if keep_clients else None
        # Workers may add replies before they are sent, but not where each client's is to be kept.
        self.partial_sum = None if keep_clients else StatisticsSum

    def aggregate_train(self, server_round: int, replies: Messages) -> tuple[ArrayRecord, None]:
        """Add replies as they arrive, then solve once.

        Raises:
            BadInput: No client answered; the memory is as it was.
            ClientFailed: More clients' statistics do not fit the others' than may fail; the first is named.
        """
        phase, number = StatisticsTotal(), server_round if in_order(self.memory) else 0
        if self.kept:
            self.kept.begin(server_round, known=self.memory.total is not None)
        keep = partial(self._keep, number, server_round) if self.kept else None
        self.add(replies, phase, keep)
        memory = self.memory.add(phase.result())
        own = phase.result() if self.kept and number else None
        del phase  # as large as the memory, and the solve needs room
        solution = memory.solution() if memory.total.count else None
        if self.kept:
            self.kept.close(memory.total if own is None else own, solution, number)
        self.memory, self.solution = memory, solution
        self.missed = {node: [*self.missed.get(node, ()), server_round] for node in lost(replies)}
        return self.head(), None

    def _keep(self, phase: int, server_round: int, node: int, packed: Mapping[str, np.ndarray]) -> None:
        assert self.kept is not None
        self.kept.keep(node, packed, phase, (*self.missed.get(node, ()), server_round))

    def report(self) -> dict[str, Any]:
        """Return what the last solve says of itself; `notes` is what a reader must know."""
        metrics = self.tell(self.memory.total)
        if self.missed and metrics:
            rounds = sum(map(len, self.missed.values()))
            metrics["notes"] += [
                f"of {len(self.missed)} clients what they observed in {rounds} rounds is not in the head: they "
                "failed and did not answer again before the end"
            ]
        return metrics
