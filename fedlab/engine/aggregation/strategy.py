"""The server's side of a method: a Flower strategy, and what the round loop and the app ask of it beside.

The client's side, and a whole method as an example, are in `fedlab.method`. Flower's own strategies, which know nothing
of this, enter the loop through `FlowerStrategy`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedlab.engine.aggregation.averaging import partial_mean
from fedlab.engine.messages.broadcast import Broadcast
from fedlab.engine.messages.partial_sums import PartialSum
from fedlab.engine.persistence.statistics_store import Keeper
from fedlab.privacy.accounting.ledger import Ledger

Messages = Iterable[Message]
"""What is asked, or answered, in a round."""
NOBODY: Mapping[int, Sequence[int]] = MappingProxyType({})


class FedlabStrategy(Strategy):
    """A strategy that says of itself what the loop would otherwise have to guess; `aggregate_train` must be written.

    What a strategy of Flower's does already comes first among the bases: `class Mine(FedAvg, FedlabStrategy)`. A
    checkpoint keeps all attributes, or what `state_dict` returns and `load_state_dict` takes where a class has both.

    Attributes:
        streaming: Whether it walks replies once, as they arrive; else it is given a list of them.
        partial_sum: Class of sum (`ArraySum`, `StatisticsSum`, ...) that adds replies where they are made, one of
            which then stands for many clients; None where the strategy needs each by itself.
        replies_are_models: Whether replies are models like the one that was sent: the loop then refuses those that
            are not, or hold NaN.
        rounds_per_step: Number of rounds that learn all there is, or what one step of a stream brings, and after
            which there is a model to evaluate; None where every round improves the model.
        one_round: Whether it can learn only once, and nothing of a stream.
        late: Fate of clients that answer after the deadline: 'drop', or 'merge' to hand them to `merge` after the
            round.
        missed: Node to the rounds that it was asked in vain: it is told them as `missed-rounds` when it is asked
            again.
        kept: Folder of clients' statistics; the app lets a relative one lie in the run directory. None keeps none.
        privacy: Budget of what may be released (`PrivacyBudget`, or what has its attributes); None promises nothing.
        ledger: Ledger where releases are entered; the app sets it where there is a `privacy`.
        secure: Whether replies come as one secure sum; `strategies.secagg` sets it on the strategy that it wraps.
    """

    streaming: bool = False
    partial_sum: Callable[[], PartialSum] | None = None
    replies_are_models: bool = True
    rounds_per_step: int | None = None
    one_round: bool = False
    late: str = "drop"
    missed: Mapping[int, Sequence[int]] = NOBODY
    kept: Keeper | None = None
    privacy: Any = None
    ledger: Ledger | None = None
    secure: bool = False

    # -- asking --------------------------------------------------------------------------------------------------

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Messages:
        """Return what clients are asked: here every node, with the model and the number of the round."""
        return self.ask(grid, ConfigRecord({**config, "server-round": server_round}), arrays)

    def ask(self, grid: Grid, config: ConfigRecord, arrays: ArrayRecord | None = None) -> Sequence[Message]:
        """Return one question to every node of a grid; to those who missed rounds it names them."""
        nodes, arrays = list(grid.get_node_ids()), arrays or ArrayRecord()
        if self.missed:
            return self.ask_each(dict.fromkeys(nodes, arrays), config, self.missed)
        return Broadcast(RecordDict({"arrays": arrays, "config": config}), nodes, MessageType.TRAIN)

    @staticmethod
    def ask_each(
        arrays: Mapping[int, ArrayRecord], config: ConfigRecord, missed: Mapping[int, Sequence[int]] = NOBODY
    ) -> list[Message]:
        """Return a question to each of these nodes; those who are asked the same share its content."""
        contents: dict[tuple[int, tuple[int, ...]], RecordDict] = {}
        messages = []
        for node, record in arrays.items():
            same = id(record), tuple(missed.get(node, ()))
            if same not in contents:
                settings = ConfigRecord({**config, "missed-rounds": list(same[1])}) if same[1] else config
                contents[same] = RecordDict({"arrays": record, "config": settings})
            messages.append(Message(contents[same], node, MessageType.TRAIN))
        return messages

    def partial_sum_of(self, messages: Sequence[Message]) -> Callable[[], PartialSum] | None:
        """Return what adds the replies to these messages where they are made."""
        return self.partial_sum

    # -- hearing -------------------------------------------------------------------------------------------------

    @abstractmethod
    def aggregate_train(self, server_round: int, replies: Messages) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the model after a round, and no metrics; None leaves the model as it was."""

    def merge(self, replies: Messages) -> ArrayRecord | None:
        """Return the model with those who answered late; None if it has not changed."""
        raise NotImplementedError

    # -- the rest ------------------------------------------------------------------------------------------------

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Messages:
        """Ask nobody: the server evaluates, and what clients would measure on their own samples is data."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Messages) -> MetricRecord | None:
        """Nothing was asked."""
        return None

    def summary(self) -> None:
        """Nothing to log: the table says it."""

    def report(self) -> dict[str, Any]:
        """Return metrics of the whole run; `notes` are lines for the reader, `statistics_sha256` is a column."""
        return {}


class FlowerStrategy(FedlabStrategy):
    """The adapter: a strategy of Flower's, under the contract's defaults.

    Args:
        strategy: Strategy that is asked; of those that average, workers form the means of what their clients answer.
    """

    def __init__(self, strategy: Strategy):
        self.strategy = strategy

    def partial_sum_of(self, messages: Sequence[Message]) -> Callable[[], PartialSum] | None:
        """Return what averages replies, where the strategy wants nothing but their mean."""
        return partial_mean(self.strategy, messages)

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Messages:
        """Return what the strategy asks."""
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Messages) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return what the strategy makes of the replies."""
        return self.strategy.aggregate_train(server_round, replies)

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Messages:
        """Return what the strategy asks."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Messages) -> MetricRecord | None:
        """Return what the strategy makes of the replies."""
        return self.strategy.aggregate_evaluate(server_round, replies)


def contract_of(strategy: Strategy) -> FedlabStrategy:
    """Return a strategy that is ours as it is, and one of Flower's in its adapter."""
    return strategy if isinstance(strategy, FedlabStrategy) else FlowerStrategy(strategy)
