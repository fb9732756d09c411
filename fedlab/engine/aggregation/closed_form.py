"""What strategies that add statistics and solve share: whom they ask, how replies add up, what a solve tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedlab.analytic import notes
from fedlab.engine.aggregation.replies import refuse
from fedlab.engine.aggregation.server_evaluation import ServerJudged
from fedlab.engine.messages.broadcast import Broadcast
from fedlab.engine.messages.partial_sums import StatisticsSum, packed_of
from fedlab.engine.messages.records import to_record
from fedlab.errors import BadInput
from fedlab.stats import Solution, StatisticsTotal, plain_sums, unpack

NOBODY: Mapping[int, Sequence[int]] = MappingProxyType({})


class ClosedForm(ServerJudged, Strategy):
    """A strategy whose clients need no model and whose model is a solve: Flower's interface but for two methods.

    What is left to say is `configure_train` and `aggregate_train`.

    Attributes
    ----------
    streaming
        Replies are added as they come.
    partial_sum
        What adds them where they are made; None where each is wanted by itself.
    rounds_per_step
        How many rounds it takes to learn what a step of a stream brings, or all there is: more would add it twice.
    one_round
        Whether it can learn only once, and nothing of a stream.
    solution
        The last solve; None before.
    """

    streaming = True
    partial_sum: type[StatisticsSum] | None = StatisticsSum
    rounds_per_step = 1
    one_round = False
    solution: Solution | None = None

    def ask(
        self, grid: Grid, config: ConfigRecord, missed: Mapping[int, Sequence[int]] = NOBODY
    ) -> Iterable[Message]:
        """Ask every node; it needs no model to answer.

        Parameters
        ----------
        grid
            Its nodes.
        config
            What they are told.
        missed
            Node to the rounds that it was asked in vain; it is told them too, as `missed-rounds`.
        """
        nodes = list(grid.get_node_ids())
        content = RecordDict({"arrays": ArrayRecord(), "config": config})
        if not missed:
            return Broadcast(content, nodes, MessageType.TRAIN)
        contents: dict[tuple[int, ...], RecordDict] = {
            (): content
        }  # nodes that missed the same are sent the same
        for rounds in map(tuple, missed.values()):
            told = ConfigRecord({**config, "missed-rounds": list(rounds)})
            contents.setdefault(rounds, RecordDict({"arrays": ArrayRecord(), "config": told}))
        return [Message(contents[tuple(missed.get(node, ()))], node, MessageType.TRAIN) for node in nodes]

    def add(
        self,
        replies: Iterable[Message],
        total: StatisticsTotal,
        keep: Callable[[int, Mapping[str, np.ndarray]], None] | None = None,
    ) -> int:
        """Add replies as they arrive, and return how many there were.

        Parameters
        ----------
        replies
            What the nodes answered.
        total
            Where their statistics are added.
        keep
            Called with the node and its packed statistics, once they are added.

        Raises
        ------
        ClientFailed
            More clients' statistics do not fit the others' than may fail; the first is named.
        """
        added = 0
        for reply in replies:
            if reply.has_error():
                continue
            try:
                packed = packed_of(reply.content)
                total.add(unpack(packed))
            except BadInput as error:
                refuse(replies, reply, error)
                continue
            added += 1
            if keep is not None:
                keep(reply.metadata.src_node_id, packed)
        return added

    def head(self) -> ArrayRecord:
        """Return the model: the last solve, or an empty one where nobody had a sample yet."""
        return to_record({"weight": self.solution.weight.numpy()}) if self.solution else ArrayRecord()

    def tell(self, statistics: Any) -> dict[str, Any]:
        """Return what a solve says of itself; `notes` is what a reader must know.

        Parameters
        ----------
        statistics
            Of everything that is in the head, of any kind; None before the first round.
        """
        solution = self.solution
        if statistics is None or solution is None:
            return {}
        return {
            "statistics_sha256": statistics.sha256,
            "samples": statistics.count,
            "ridge": solution.ridge,
            "condition": solution.condition,
            "rank": solution.rank,
            "saturated": statistics.saturated,
            "notes": notes(plain_sums(statistics), solution),
        }
