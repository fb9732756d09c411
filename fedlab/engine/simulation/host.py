"""A host runs a ClientApp for the nodes it holds; what they remember stays with it from message to message.

LocalGrid has one host, RayGrid one per worker. What a node may see, how its exceptions travel and when many
are answered in one call is the same in both.
"""

from __future__ import annotations

import copy
import logging
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TypeVar

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from fedlab.engine.messages.broadcast import Broadcast, nodes_of
from fedlab.engine.messages.identity import FIRST_CLIENT_NODE, private_copy
from fedlab.engine.messages.partial_sums import NewSum, as_partial_sum
from fedlab.engine.messages.records import content_bytes
from fedlab.engine.simulation.batched_app import BatchedClientApp, ClientBatch
from fedlab.engine.simulation.faults import Corrupt, Crash, Duplicate, FaultPlan, damaged
from fedlab.errors import REFUSED, BadInput
from fedlab.stats.arithmetic.solve import one_thread

_LOG = logging.getLogger("fedlab")
Answer = TypeVar("Answer")


class Host:
    """Runs messages for simulated nodes.

    Args:
        client_app: ClientApp, or where to import it from as 'module:attribute'.
        num_nodes: Number of nodes in the whole federation; node ids are 2, 3, ..., partition ids 0, 1, ...
        run_config: Config that `context.run_config` shows to every client.
        plan: Faults that strike clients where they run.
        mortal: Whether this is a worker process, which a `Crash` may kill.
    """

    def __init__(
        self,
        client_app: ClientApp | str,
        num_nodes: int,
        run_config: Mapping[str, str],
        plan: FaultPlan | None = None,
        mortal: bool = False,
    ):
        self._app = load_client_app(client_app)
        self._batched = self._app if isinstance(self._app, BatchedClientApp) else BatchedClientApp()
        self._num_nodes, self._run_config = num_nodes, dict(run_config)
        self._plan, self._mortal = plan or FaultPlan(), mortal
        # Only of nodes that remember something: a million nodes that do not cost nothing.
        self._states: dict[int, RecordDict] = {}
        self._touched: set[int] = set()

    def restart(self, run_config: Mapping[str, str]) -> None:
        """Forget what every node remembers and show this config to the next."""
        self._run_config = dict(run_config)
        self.remember({})

    # -- what nodes remember -----------------------------------------------------------------------------------

    def changes(self) -> dict[int, bytes]:
        """Return the states of the nodes that have run since the last call; empty bytes for none."""
        states = self.states(self._touched)
        changed = {node: states.get(node, b"") for node in self._touched}
        self._touched.clear()
        return changed

    def states(self, nodes: Iterable[int] | None = None) -> dict[int, bytes]:
        """Return the states of those of these nodes (of all) that remember something."""
        chosen = self._states if nodes is None else [node for node in nodes if node in self._states]
        return {node: recorddict_to_proto(self._states[node]).SerializeToString() for node in chosen}

    def remember(self, states: Mapping[int, bytes]) -> None:
        """Let nodes remember what `states` once returned, and nothing else."""
        self._touched.clear()
        self._states = {
            node: recorddict_from_proto(RecordDictProto.FromString(state)) for node, state in states.items()
        }

    # -- answering ---------------------------------------------------------------------------------------------

    def answer(
        self, messages: Sequence[Message], partial_sum: NewSum | None = None, first_try: bool = True
    ) -> Iterator[list[Message]]:
        """Yield the replies to each message: one, or two where a duplicate strikes.

        With a partial sum, yield a single list: the sum of all replies, and the error replies. A `Crash` kills
        the process on the first try only.
        """
        if partial_sum is not None:
            yield self._sum(messages, partial_sum, first_try)
            return
        for message, reply in self._replies(messages, first_try):
            twice = self._plan and not reply.has_error() and self._plan.strikes(Duplicate, message)
            yield [reply, reply] if twice else [reply]

    def _sum(self, messages: Sequence[Message], partial_sum: NewSum, first_try: bool) -> list[Message]:
        total = self._attempt(self._batched.answers_in_total, messages, partial_sum)
        if total is not None:
            content, num_bytes = total
            return [Message(as_partial_sum(content, len(messages), num_bytes), reply_to=messages[0])]
        running, clients, num_bytes, errors = partial_sum(), 0, 0, []
        for message, reply in self._replies(messages, first_try):
            if reply.has_error():
                errors.append(reply)
                continue
            try:
                running.add(reply.content)
            except BadInput as error:
                errors.append(refused(message, error))
                continue
            clients += 1
            num_bytes += content_bytes(reply.content)
        if not clients:
            return errors
        return [Message(as_partial_sum(running.content(), clients, num_bytes), reply_to=messages[0]), *errors]

    def _replies(self, messages: Sequence[Message], first_try: bool) -> Iterator[tuple[Message, Message]]:
        """Yield every message with its reply."""
        contents = self._together(messages)
        for index, message in enumerate(messages):
            one = self._handle(message, first_try) if contents is None else Message(contents[index], reply_to=message)
            yield message, one

    def _handle(self, message: Message, first_try: bool) -> Message:
        """Return the client's reply, or an error reply that carries its traceback."""
        if self._mortal and first_try and self._plan and self._plan.strikes(Crash, message):
            os.kill(os.getpid(), signal.SIGKILL)
        node, kept = message.metadata.dst_node_id, self._states.get(message.metadata.dst_node_id)
        context = Context(
            run_id=message.metadata.run_id,
            node_id=node,
            node_config={"partition-id": partition_of(node), "num-partitions": self._num_nodes},
            # Its own copy: a client that fails leaves no trace.
            state=RecordDict() if kept is None else copy.deepcopy(kept),
            run_config=dict(self._run_config),
        )
        started = time.monotonic()
        try:
            with one_thread():  # a client's bits then do not depend on how many workers share the cores
                reply: object = self._app(private_copy(message), context)
            if not isinstance(reply, Message):
                raise TypeError(f"the ClientApp returned a {type(reply).__name__}, not a Message")
        except (Exception, SystemExit):  # a client that exits ends its own turn, not the federation
            return failure(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, traceback.format_exc())
        if context.run_config != self._run_config:
            return failure(message, ErrorCode.UNKNOWN, "the client changed its run_config, which is the run's")
        self._keep(node, context.state)
        # The client's own seconds: that the simulation asks one after the other is no one's delay.
        if time.monotonic() - started > message.metadata.ttl:
            why = f"the reply came after the message's time to live of {message.metadata.ttl:g} s"
            return failure(message, ErrorCode.MESSAGE_UNAVAILABLE, why)
        if self._plan and reply.has_content() and (struck := self._plan.strikes(Corrupt, message)):
            reply.content = damaged(reply.content, *struck)
        return reply

    def _keep(self, node: int, state: RecordDict) -> None:
        if len(state):
            self._states[node] = state
            self._touched.add(node)
        elif self._states.pop(node, None) is not None:
            self._touched.add(node)

    # -- many clients at once ----------------------------------------------------------------------------------

    def _together(self, messages: Sequence[Message]) -> Sequence[RecordDict] | None:
        """Return the contents of all replies, made in one call; None where each is to be made by itself."""
        contents = self._attempt(self._batched.answers_together, messages)
        if contents is not None and len(contents) != len(messages):
            raise TypeError(f"{len(messages)} clients were asked together, {len(contents)} replies came")
        return contents

    def _attempt(
        self,
        functions: Mapping[str, Callable[[ClientBatch], Answer | None]],
        messages: Sequence[Message],
        partial_sum: NewSum | None = None,
    ) -> Answer | None:
        """Call a function for many clients; where it fails, each is asked by itself, so that the culprit is named."""
        batch = self._batch(messages, partial_sum)
        if batch is None or (function := functions.get(_message_type(messages))) is None:
            return None
        try:
            with one_thread():
                return function(batch)
        except Exception as error:
            _LOG.info("%d clients are asked one by one, for together they failed: %s", len(messages), error)
            return None

    def _batch(self, messages: Sequence[Message], partial_sum: NewSum | None) -> ClientBatch | None:
        if self._app is not self._batched or self._batched.modified or self._plan or not len(messages):
            return None
        if not isinstance(messages, Broadcast):
            content, kind = messages[0].content, _message_type(messages)
            if any(m.content is not content or m.metadata.message_type != kind for m in messages):
                return None
        nodes = nodes_of(messages).tolist()
        if not self._states.keys().isdisjoint(nodes):
            return None
        content = private_copy(messages[0]).content
        partitions = [partition_of(node) for node in nodes]
        return ClientBatch(content, partitions, self._num_nodes, dict(self._run_config), partial_sum)


def _message_type(messages: Sequence[Message]) -> str:
    return messages.message_type if isinstance(messages, Broadcast) else messages[0].metadata.message_type


def refused(message: Message, error: BadInput) -> Message:
    """Return the error reply that takes the place of a reply that cannot be used."""
    reason = f"{REFUSED}its reply was refused: {error}"
    return failure(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)


def failure(message: Message, code: int, reason: str) -> Message:
    """Return an error reply."""
    return Message(Error(code=code, reason=reason), reply_to=message)


def partition_of(node_id: int) -> int:
    """Return the partition that a simulated node holds."""
    return node_id - FIRST_CLIENT_NODE


def node_of(partition_id: int) -> int:
    """Return the simulated node that holds a partition."""
    return partition_id + FIRST_CLIENT_NODE


def load_client_app(client_app: ClientApp | str) -> ClientApp:
    """Return the ClientApp that 'module:attribute' names."""
    if isinstance(client_app, ClientApp):
        return client_app
    module, _, attribute = client_app.partition(":")
    try:
        app = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"client app {client_app!r} cannot be loaded ({error}): give 'module:attribute'") from error
    if not isinstance(app, ClientApp):
        raise BadInput(f"client app {client_app!r} is a {type(app).__name__}, not a flwr.clientapp.ClientApp")
    return app
