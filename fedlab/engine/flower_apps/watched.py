"""WatchedGrid: what an unknown app does with its Grid: rounds, messages, failures, a wait without end.

Flower hands a client's exception to the strategy, which counts it and goes on, and a strategy that wants more
nodes than there are waits for ever. Simulated nodes are all there from the start: the wait can be recognised.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from flwr.app import Error, Message

from fedlab.engine.flower_apps.clipping import excess
from fedlab.engine.messages.broadcast import Broadcast
from fedlab.engine.messages.partial_sums import NewSum, stands_for
from fedlab.engine.messages.records import round_of
from fedlab.engine.simulation.meter import Emit, MeteredGrid
from fedlab.engine.simulation.simulated import SimulatedGrid
from fedlab.errors import BadInput

RETRY_FOR = 10.0
"""Seconds that a ServerApp may ask for nodes, and nothing else, before it hears that no more will come."""
LOOKS = 5
"""Number of times that it must have asked by then."""


class WatchedGrid(MeteredGrid):
    """Counts, and tells what happens; several threads may use it at once, as Flower's older apps do.

    Args:
        grid: Simulated Grid that does the work.
        emit: Listener that gets ('warning', message=) once when clients do not clip as the strategy trusts them to,
            ('progress', what=, round=, done=, total=) after every reply, where `what` is the messages' type and
            `round` None unless they say it, and ('failed', client=, reason=) at the first error reply, with the
            client's traceback; the strategy gets the last line of each.

    Attributes:
        sent: Number of messages by their type: 'train', 'evaluate', 'query', ...
        rounds: Highest 'server-round' that a message spoke of.
        errors: Number of error replies.
    """

    def __init__(self, grid: SimulatedGrid, emit: Emit | None = None):
        super().__init__(grid)
        self._tell: Emit = emit or (lambda *_, **__: None)
        self._num_nodes = grid.num_nodes
        self._lock = threading.Lock()
        self._looks: list[float] = []  # when nodes were asked for, since the last message
        self._under_way = self._done = self._total = 0
        self._unclipped = False
        self.sent: Counter[str] = Counter()
        self.rounds = 0
        self.errors = 0

    def stream(
        self, messages: Iterable[Message], *, timeout: float | None = None, partial_sum: NewSum | None = None
    ) -> Iterator[Message]:
        """Yield replies as they come, watching them."""
        batch = messages if isinstance(messages, Broadcast) else list(messages)
        trusting = not self._unclipped
        with self._sending(batch) as (what, server_round):
            for reply in super().stream(batch, timeout=timeout, partial_sum=partial_sum):
                self._take(reply)
                if trusting and reply.has_content():  # an app clips everywhere or nowhere: one reply tells
                    trusting = False
                    self._check_clipping(batch, reply)
                with self._lock:
                    self._done += stands_for(reply)[0]
                    done, total = self._done, self._total
                self._tell("progress", what=what, round=server_round, done=done, total=total)
                yield reply

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages, watching them."""
        batch = list(messages)
        with self._sending(batch):
            return super().push_messages(batch)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull replies, watching them."""
        replies = list(super().pull_messages(message_ids))
        for reply in replies:
            self._take(reply)
        return replies

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes.

        Raises:
            BadInput: They were asked for again and again: whoever asks waits for nodes that do not exist.
        """
        # Flower's older apps look for nodes in a thread of their own, whatever the server does meanwhile.
        if threading.current_thread() is threading.main_thread() and not self._under_way:
            self._looks.append(time.monotonic())
            waited = self._looks[-1] - self._looks[0]
            if len(self._looks) > LOOKS and waited > RETRY_FOR:
                raise BadInput(
                    f"the ServerApp has looked for nodes for {waited:.0f} s and sent nothing: it waits for "
                    f"more than the {self._num_nodes} there are; give it more (--nodes), or let its strategy "
                    "ask for fewer (min_available_nodes)"
                )
        return super().get_node_ids()

    @contextmanager
    def _sending(self, batch: Sequence[Message]) -> Iterator[tuple[str, int | None]]:
        """Note that messages are under way; the type and the round of the first are given."""
        if isinstance(batch, Broadcast):
            kinds = Counter({batch.message_type: len(batch)})
        else:
            kinds = Counter(message.metadata.message_type for message in batch)
        server_round = round_of(batch[0]) if len(batch) else None
        with self._lock:
            self._looks.clear()
            if not self._under_way:
                self._done = self._total = 0
            self._under_way += 1
            self._total += len(batch)
            self.sent.update(kinds)
            self.rounds = max(self.rounds, server_round or 0)
        try:
            yield next(iter(kinds), ""), server_round
        finally:
            with self._lock:
                self._under_way -= 1

    def _check_clipping(self, batch: Sequence[Message], reply: Message) -> None:
        node = reply.metadata.src_node_id
        message = next((message for message in batch if message.metadata.dst_node_id == node), None)
        if message is None or (beyond := excess(message, reply)) is None:
            return
        self._unclipped = True
        moved, norm = beyond
        self._tell(
            "warning",
            message=f"the strategy trusts its clients to clip their updates to {norm:g}, but client "
            f"{self.client_name(node)} sent one of norm {moved:g}: differential privacy does not hold; add "
            "fixedclipping_mod or adaptiveclipping_mod to the mods of the ClientApp's train function",
        )

    def _take(self, reply: Message) -> None:
        if not reply.has_error():
            return
        with self._lock:
            self.errors += 1
            first = self.errors == 1
        reason = (reply.error.reason or "").strip() or "it gave no reason"
        if first:
            self._tell("failed", client=self.client_name(reply.metadata.src_node_id), reason=reason)
        # Flower's strategies log every reason: a line of each failure is enough, the first was told whole.
        reply.error = Error(reply.error.code, reason.splitlines()[-1])
