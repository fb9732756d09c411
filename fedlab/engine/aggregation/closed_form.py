"""What strategies that add statistics and solve share: whom they ask, how replies add up, what a solve tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fedlab.analytic.diagnostics import diagnostics
from fedlab.engine.aggregation.replies import taken
from fedlab.engine.aggregation.strategy import FedlabStrategy, Messages
from fedlab.engine.messages.partial_sums import StatisticsSum, packed_of
from fedlab.engine.messages.records import to_record
from fedlab.method import Arrays
from fedlab.stats import Solution, StatisticsTotal, plain_sums, unpack


class Phases(Protocol):
    """What a stream leaves behind: `fedlab.analytic.Joint` and its like; immutable."""

    @property
    def total(self) -> Any:
        """Statistics of everything added, of whatever kind; None before the first phase."""
        ...

    def add(self, phase: Any) -> Phases:
        """Return it with one more phase; on BadInput nothing has changed."""
        ...

    def solution(self) -> Solution:
        """Return the head over everything added."""
        ...


class ClosedForm(FedlabStrategy):
    """A strategy whose clients need no model and whose model is a solve: `aggregate_train` is left to say.

    Attributes:
        statistics: Sums that the head is solved from; None before.
        solution: Last solve; None before.
        remembered: Names of the attributes that a checkpoint keeps.
    """

    streaming = True
    partial_sum = StatisticsSum
    rounds_per_step = 1
    statistics: Any = None
    solution: Solution | None = None
    remembered: tuple[str, ...] = ("statistics", "solution")

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Messages:
        """Ask every node; it needs the number of the round to answer, and no model."""
        return self.ask(grid, ConfigRecord({**config, "server-round": server_round}))

    def add(self, replies: Messages, total: StatisticsTotal, keep: Callable[[int, Arrays], None] | None = None) -> int:
        """Add replies as they arrive, and return how many there were.

        Args:
            replies: Answers of the nodes.
            total: Sum that their statistics are added to.
            keep: Listener, called with the node and its packed statistics, once they are added.

        Raises:
            ClientFailed: More clients' statistics do not fit the others' than may fail; the first is named.
        """

        def added(reply: Message) -> Arrays:
            packed = packed_of(reply.content)
            total.add(unpack(packed))
            return packed

        number = 0
        for node, packed in taken(replies, added):
            number += 1
            if keep is not None:
                keep(node, packed)
        return number

    def head(self) -> ArrayRecord:
        """Return the model: the last solve, or an empty one where nobody had a sample yet."""
        return to_record({"weight": self.solution.weight.numpy()}) if self.solution else ArrayRecord()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {name: getattr(self, name) for name in self.remembered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` once returned."""
        for name in self.remembered:
            setattr(self, name, state[name])

    def report(self) -> dict[str, Any]:
        """Return what the last solve says of itself; `notes` is what a reader must know."""
        return self.tell(self.statistics)

    def tell(self, statistics: Any) -> dict[str, Any]:
        """Return what the last solve says of itself.

        Args:
            statistics: Sums of everything that is in the head, of any kind; None before the first round.
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
            "notes": diagnostics(plain_sums(statistics), solution),
        }
