"""Learning from a stream: after every round the server holds the exact solution over all that was observed.

    S <- S + sum_k S_k(t)        W(t) = solve(S)        S_k(t) = what client k observed in round t

What S is and how it is solved is the memory's: `fedlab.stats.Joint` adds (ACIL, GACL, GKEAL),
`fedlab.stats.DualStream` keeps a compensation stream beside it (DS-AL). A client that is late, or comes back
after rounds of absence, sends what it observed meanwhile: a sum does not care when its terms arrive.

Zhuang et al., ACIL, NeurIPS 2022, https://arxiv.org/abs/2205.14922; DS-AL, AAAI 2024,
https://arxiv.org/abs/2403.17503. k clients, t rounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedlab.engine.addition import StatisticsSum, packed_of
from fedlab.engine.broadcast import Broadcast
from fedlab.engine.records import to_record
from fedlab.engine.replies import refuse
from fedlab.errors import BadInput
from fedlab.stats import GramStats, Solution, StatisticsTotal, unpack


class Memory(Protocol):
    """What is left of the rounds so far; immutable."""

    @property
    def total(self) -> GramStats | None:
        """Statistics of everything observed; None before the first round."""
        ...

    def add(self, phase: Any) -> Memory:
        """Return the memory after one more round; on BadInput nothing has changed."""
        ...

    def solution(self) -> Solution:
        """Return the head over everything observed."""
        ...


class Continual(Strategy):
    """Ask every client in every round for the statistics of what it observed in it; add them, solve.

    Parameters
    ----------
    memory
        Before the first round.
    """

    streaming = True
    addition = StatisticsSum

    def __init__(self, memory: Memory):
        self.memory = memory
        self.solution: Solution | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every node; it needs the number of the round and no model."""
        config = ConfigRecord({**config, "server-round": server_round})
        content = RecordDict({"arrays": ArrayRecord(), "config": config})
        return Broadcast(content, list(grid.get_node_ids()), MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add replies as they arrive, then solve once.

        Raises
        ------
        BadInput
            No client answered; the memory is as it was.
        ClientFailed
            More clients' statistics do not fit the others' than may fail; the first is named.
        """
        phase = StatisticsTotal()
        for reply in replies:
            if reply.has_error():
                continue
            try:
                phase.add(unpack(packed_of(reply.content)))
            except BadInput as error:
                refuse(replies, reply, error)
        self.memory = self.memory.add(phase.result())
        if self.memory.total is None or self.memory.total.count == 0:
            return None, None  # nobody has observed anything yet: there is no head
        self.solution = solution = self.memory.solution()
        return to_record({"weight": solution.weight.numpy()}), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluate on the server only: the head does not depend on the clients."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing was asked."""
        return None

    def summary(self) -> None:
        """Nothing to log: the table says it."""

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint keeps."""
        return {"memory": self.memory, "solution": self.solution}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` once returned."""
        self.memory, self.solution = state["memory"], state["solution"]

    def report(self) -> dict[str, object]:
        """Return what the last solve says of itself; `notes` is what a reader must know."""
        if self.memory.total is None or self.solution is None:
            return {}
        statistics, solution = self.memory.total, self.solution
        return {
            "statistics_sha256": statistics.sha256,
            "samples": statistics.count,
            "ridge": solution.ridge,
            "condition": solution.condition,
            "rank": solution.rank,
            "saturated": statistics.saturated,
            "notes": [solution.note] if solution.note else [],
        }
