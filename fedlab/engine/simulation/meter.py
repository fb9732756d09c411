"""MeteredGrid: any Grid, with its traffic counted and its progress told.

It wraps LocalGrid, RayGrid and Flower's own Grid alike: bytes and seconds mean the same on all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedlab.engine.messages.broadcast import Broadcast
from fedlab.engine.messages.partial_sums import NewSum, stands_for
from fedlab.engine.messages.records import content_bytes
from fedlab.engine.simulation.host import partition_of
from fedlab.engine.simulation.simulated import SimulatedGrid

Emit = Callable[..., None]
"""Receives `emit(kind, **fields)`."""
PAUSE = 0.5
"""Seconds between two looks for the replies of a deployment; a SuperNode looks for messages every 3."""


@dataclass
class Traffic:
    """What has travelled so far: bytes each way, and seconds spent waiting for replies."""

    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


class MeteredGrid(Grid):
    """Counts what passes through a Grid.

    Args:
        grid: Grid that does the work.
        emit: Listener that gets ('progress', done=, total=) after every reply.
    """

    def __init__(self, grid: Grid, emit: Emit | None = None):
        self._grid = grid
        self.emit: Emit = emit or (lambda *_, **__: None)
        self.traffic = Traffic()

    def stream(
        self, messages: Iterable[Message], *, timeout: float | None = None, partial_sum: NewSum | None = None
    ) -> Iterator[Message]:
        """Yield replies as they come, counting them; a Grid that cannot add them returns each by itself."""
        batch = messages if isinstance(messages, Broadcast) else list(messages)
        self.traffic.bytes_down += _weight(batch)
        started = time.perf_counter()
        if isinstance(self._grid, SimulatedGrid):
            replies = self._grid.stream(batch, timeout=timeout, partial_sum=partial_sum)
        else:
            replies = _stream(self._grid, list(batch), timeout)
        yield from self._counted(replies, len(batch), started)

    def stream_late(self, *, partial_sum: NewSum | None = None) -> Iterator[Message]:
        """Yield the replies that came after their round's deadline, counting them."""
        if isinstance(self._grid, SimulatedGrid):
            yield from self._counted(self._grid.stream_late(partial_sum=partial_sum), 0, time.perf_counter())

    def _counted(self, replies: Iterator[Message], total: int, started: float) -> Iterator[Message]:
        done = 0
        while True:
            reply = next(replies, None)
            self.traffic.seconds += time.perf_counter() - started
            if reply is None:
                return
            clients, num_bytes = stands_for(reply)
            done += clients
            if reply.has_content():
                self.traffic.bytes_up += content_bytes(reply.content) if num_bytes is None else num_bytes
            self.emit("progress", done=done, total=total)
            yield reply
            started = time.perf_counter()

    @property
    def simulated(self) -> bool:
        """Whether the nodes live in this program, or its workers, rather than in a deployment."""
        return isinstance(self._grid, SimulatedGrid)

    def client_name(self, node_id: int) -> str:
        """Return how to speak of a node: by its partition where it is simulated."""
        return str(partition_of(node_id)) if isinstance(self._grid, SimulatedGrid) else f"on node {node_id}"

    def block(self, node_id: int) -> range:
        """Return the nodes whose replies may be summed with this node's: itself, where nothing is simulated."""
        grid = self._grid
        return grid.block(node_id) if isinstance(grid, SimulatedGrid) else range(node_id, node_id + 1)

    @property
    def restarts(self) -> int:
        """How many workers have died and been replaced."""
        return getattr(self._grid, "restarts", 0)

    def node_states(self) -> dict[int, bytes]:
        """Return what the simulated nodes remember; nothing of nodes that live elsewhere."""
        return self._grid.node_states() if isinstance(self._grid, SimulatedGrid) else {}

    def set_node_states(self, states: Mapping[int, bytes]) -> None:
        """Let the simulated nodes remember this."""
        if isinstance(self._grid, SimulatedGrid):
            self._grid.set_node_states(states)

    # -- flwr.serverapp.Grid -------------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Set the run that new messages belong to."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the connected nodes."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the connected nodes with what is known of them."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages, counting them."""
        batch = list(messages)
        self.traffic.bytes_down += _weight(batch)
        return self._grid.push_messages(batch)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull replies, counting them."""
        replies = list(self._grid.pull_messages(message_ids))
        self.traffic.bytes_up += _weight(replies)
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return the list of replies."""
        return list(self.stream(messages, timeout=timeout))


def _weight(messages: Sequence[Message]) -> int:
    if isinstance(messages, Broadcast):
        return len(messages) * content_bytes(messages.content)
    # Strategies share one content among all messages: weigh it once.
    contents = [message.content for message in messages if message.has_content()]
    weights = {key: content_bytes(content) for key, content in {id(one): one for one in contents}.items()}
    return sum(weights[id(content)] for content in contents)


def _stream(grid: Grid, messages: Sequence[Message], timeout: float | None) -> Iterator[Message]:
    """Send messages over Flower's own Grid and yield each reply when it is there.

    That Grid returns them all together, at the end; `messages` is a sequence, for Flower walks it twice.
    """
    deadline = float("inf") if timeout is None else time.monotonic() + timeout
    waiting = set(grid.push_messages(messages))
    while waiting:
        for reply in grid.pull_messages(waiting):
            waiting.discard(reply.metadata.reply_to_message_id)
            yield reply
        if waiting:
            if (left := deadline - time.monotonic()) <= 0:
                return
            time.sleep(min(PAUSE, left))
