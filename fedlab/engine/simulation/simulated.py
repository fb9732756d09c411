"""What every simulated Grid has in common: its nodes, its run, Flower's push and pull.

A subclass says only how messages become replies (`_answers`); who is not reached, who is late and in which order
replies are handed on is decided here.
"""

from __future__ import annotations

import itertools
import math
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from heapq import merge
from operator import itemgetter

import numpy as np
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedlab import checks
from fedlab.engine.messages.broadcast import Broadcast, nodes_of
from fedlab.engine.messages.identity import FIRST_CLIENT_NODE, SERVER_NODE, become, fresh_id, stamp
from fedlab.engine.messages.partial_sums import NewSum
from fedlab.engine.simulation.allocator import keep_freed_memory
from fedlab.engine.simulation.faults import Fault, FaultPlan
from fedlab.engine.simulation.host import failure, node_of
from fedlab.engine.simulation.schedule import Call, calls, chunk_of, homes, weights_of

_runs = itertools.count(1)


class SimulatedGrid(Grid, AbstractContextManager["SimulatedGrid"]):
    """A Grid whose nodes are simulated. Use it as a context manager, or `close` it.

    Args:
        num_nodes: Number of nodes.
        workers: Number of workers that the nodes are shared out among.
        chunk: Clients in a block, and messages per call; None chooses by the number of nodes.
        sizes: Samples of every client, (num_nodes,): who has more is started earlier. None takes all for equal.
        faults: Faults that strike clients, as in `fedlab.engine.simulation.faults`.
        seed: Seed of the faults.
    """

    simulated = True
    """What private strategies ask a Grid: where it is not said, data are real."""

    def __init__(
        self,
        num_nodes: int,
        workers: int = 1,
        chunk: int | None = None,
        sizes: Sequence[float] | np.ndarray | None = None,
        faults: Iterable[Fault] = (),
        seed: int = 0,
    ):
        self.num_nodes = checks.integer("clients", num_nodes, least=1)
        self.chunk = chunk_of(num_nodes, chunk)
        self._weights = weights_of(num_nodes, sizes)
        self._home = homes(self._weights, self.chunk, workers)
        self.plan = FaultPlan(faults, seed)
        self._run = Run.create_empty(run_id=next(_runs))
        self._replies: dict[str, Message] = {}
        self._late: list[Message] = []
        become(self._run.run_id, SERVER_NODE)
        keep_freed_memory()

    @abstractmethod
    def _answers(
        self, messages: Sequence[Message], waiting: list[Call], partial_sum: NewSum | None, deadline: float
    ) -> Iterator[tuple[int, list[Message]]]:
        """Yield (place, replies) in the order of the places, holding only a few at a time.

        Without a partial sum a place is a message's; with one it is a call's first, and the replies are the sum
        and the error replies.
        """

    def stream(
        self, messages: Iterable[Message], *, timeout: float | None = None, partial_sum: NewSum | None = None
    ) -> Iterator[Message]:
        """Yield the replies in the order of the messages, holding only a few at a time.

        Args:
            messages: Messages; a `Broadcast` is never made into a list.
            timeout: Seconds; replies that are not ready then are left out, as Flower does.
            partial_sum: Maker of a sum of replies: one reply per block of clients then stands for all of them
                (`fedlab.engine.messages.partial_sums.stands_for`), and only error replies come one by one.
        """
        batch = self._sent(messages)
        refused = self._refusals(batch)
        places = np.delete(np.arange(len(batch)), list(refused))
        partitions = nodes_of(batch) - FIRST_CLIENT_NODE
        waiting = calls(partitions, places, self._weights, self._home, self.chunk, partial_sum is not None)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        refusals = ((place, [refused[place]]) for place in sorted(refused))
        for _, replies in merge(self._answers(batch, waiting, partial_sum, deadline), refusals, key=itemgetter(0)):
            yield from replies

    def block(self, node_id: int) -> range:
        """Return the nodes whose replies are summed with this node's, where replies are summed."""
        first = (node_id - FIRST_CLIENT_NODE) // self.chunk * self.chunk + FIRST_CLIENT_NODE
        return range(first, min(first + self.chunk, FIRST_CLIENT_NODE + self.num_nodes))

    def stream_late(self, *, partial_sum: NewSum | None = None) -> Iterator[Message]:
        """Yield the replies that came after their round's deadline; they are no longer late."""
        late, plan = self._late, self.plan
        self._late, self.plan = [], FaultPlan()
        try:
            yield from self.stream(late, partial_sum=partial_sum)
        finally:
            self.plan = plan

    def _sent(self, messages: Iterable[Message]) -> Sequence[Message]:
        if isinstance(messages, Broadcast):
            return messages.named(fresh_id())
        batch = list(messages)
        for message in batch:
            stamp(message)
        return batch

    def _refusals(self, batch: Sequence[Message]) -> dict[int, Message]:
        """Return the error replies to messages that reach no node, or whose answer is not there in time."""
        nodes = nodes_of(batch)
        unknown = np.flatnonzero((nodes < node_of(0)) | (nodes >= node_of(self.num_nodes)))
        reasons = {i: f"node {nodes[i]} is not one of {self.num_nodes} simulated nodes" for i in unknown.tolist()}
        if self.plan:
            for i, message in enumerate(batch):
                if i not in reasons and (why := self.plan.refusal(message)) is not None:
                    reasons[i], comes_later = why
                    if comes_later:
                        self._late.append(message)
        return {i: failure(batch[i], ErrorCode.NODE_UNAVAILABLE, reason) for i, reason in reasons.items()}

    # -- what nodes remember -------------------------------------------------------------------------------------

    @abstractmethod
    def node_states(self) -> dict[int, bytes]:
        """Return what the nodes remember, serialised, by node id; nodes that remember nothing are left out."""

    @abstractmethod
    def set_node_states(self, states: Mapping[int, bytes]) -> None:
        """Let the nodes remember what `node_states` once returned, and nothing else."""

    def restart(self, run_config: Mapping[str, str]) -> None:
        """Begin another run on the same nodes: a new run config, and contexts that remember nothing."""
        self.set_run(Run.create_empty(run_id=next(_runs)))
        self._replies.clear()
        self._late.clear()
        self._restart(dict(run_config))

    @abstractmethod
    def _restart(self, run_config: dict[str, str]) -> None:
        """Let every host begin anew."""

    def close(self) -> None:
        """Give back what the grid holds."""

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- flwr.serverapp.Grid -------------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Set the run that new messages belong to."""
        self._run = run
        become(run.run_id, SERVER_NODE)

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message (deprecated in Flower in favour of `Message(...)`)."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes in the order of their partitions: sampling by seed needs a fixed order."""
        return range(FIRST_CLIENT_NODE, FIRST_CLIENT_NODE + self.num_nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the messages and keep their replies for `pull_messages`; return the messages' ids."""
        batch = list(messages)
        for reply in self.stream(batch):
            self._replies[reply.metadata.reply_to_message_id] = reply
        return [message.metadata.message_id for message in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages, each once."""
        return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return the list of replies; `stream` holds fewer at a time."""
        return list(self.stream(messages, timeout=timeout))
