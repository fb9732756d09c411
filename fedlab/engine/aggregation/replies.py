"""The replies of a round that are worth aggregating: what is wrong with the others is counted, and surfaces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

from fedlab.engine.messages.broadcast import nodes_of
from fedlab.engine.messages.identity import SERVER_NODE
from fedlab.engine.messages.partial_sums import ArraySum, PartialSum, stands_for
from fedlab.engine.messages.records import WEIGHT, from_record, layout_of, records_of, unlike, views
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import REFUSED, BadInput, ClientFailed

T = TypeVar("T")


class Replies:
    """The replies worth aggregating, as they arrive; failures are counted on the way.

    A client without samples has nothing to say, a reply that came before is not taken again, and one that is
    not like the model that was sent, or holds NaN, is refused and its client has failed.

    Args:
        grid: Grid of the clients.
        messages: Questions that they are asked.
        timeout: Seconds to wait for all of them.
        tolerate: Share of the clients that may fail.
        failures: Tolerated failures, which are written here: client to the reason.
        partial_sum: Sum of replies where they are made, for a strategy that only needs their sum.
        models: Whether replies are models like the one that was sent; other answers are their strategy's to check.

    Attributes:
        with_samples: Clients whose replies were handed on.

    Raises:
        ClientFailed, BadInput: More clients failed, or were silent, than are tolerated.
    """

    def __init__(
        self,
        grid: MeteredGrid,
        messages: Sequence[Message],
        timeout: float | None,
        tolerate: float,
        failures: dict[str, str],
        partial_sum: Callable[[], PartialSum] | None = None,
        models: bool = True,
    ):
        # Flower's Grid gives the messages their ids, by which an error names its client: they must be kept.
        self._messages = messages if grid.simulated else list(messages)
        self._grid, self._timeout, self._partial_sum = grid, timeout, partial_sum
        self._allowed = math.floor(tolerate * len(messages) + 1e-9)  # 0.29 of 100 is 29
        self._failed: dict[int, str] = {}
        self._failures = failures
        self._missing, self._models = len(messages), models
        self._seen: set[str] = set()
        self._heard: list[int] = []
        self.with_samples = 0

    def __iter__(self) -> Iterator[Message]:
        for reply in self._grid.stream(self._messages, timeout=self._timeout, partial_sum=self._partial_sum):
            if self._partial_sum is None and self._again(reply):
                continue
            clients, _ = stands_for(reply)
            self._missing -= clients
            if reply.has_error():
                self._fail(reply, reply.error.reason or "it gave no reason")
                continue
            if (why := self._unlike(reply)) is not None:
                self.refuse(reply, why)
                continue
            self._heard.append(reply.metadata.src_node_id)
            if _num_examples(reply) != 0:
                self.with_samples += clients
                yield reply
        # Only here is the answer complete: a consumer that stops early has not waited for the rest.
        self._check_silent()

    @property
    def lost(self) -> list[int]:
        """The nodes that were asked and are not in what was handed on: they failed, or were silent."""
        if not (self._failed or self._missing):
            return []
        heard = set(self._heard)
        if self._partial_sum:  # a sum stands for its block
            heard = {node for one in heard for node in self._grid.block(one)}
        return [node for node in nodes_of(self._messages).tolist() if node in self._failed or node not in heard]

    def refuse(self, reply: Message, why: object) -> None:
        """Count a reply that cannot be used as a failure of its client."""
        clients, _ = stands_for(reply)
        if clients > 1:
            raise BadInput(f"the sum of {clients} clients' replies was refused: {why}")
        self._fail(reply, f"{REFUSED}its reply was refused: {why}")

    def _fail(self, reply: Message, why: str) -> None:
        self._failed[self._sender(reply)] = why
        if len(self._failed) > self._allowed:
            self._raise_failed()

    def _again(self, reply: Message) -> bool:
        question = reply.metadata.reply_to_message_id
        again = question in self._seen
        self._seen.add(question)
        return again

    def _unlike(self, reply: Message) -> str | None:
        """Return what tells a reply's arrays from the model that was sent; None if nothing does.

        Only float arrays are models; what else travels (trees as bytes, packed sums) its strategy knows.
        """
        if not (self._models and len(self._messages)):
            return None
        models = records_of(self._messages[0].content, ArrayRecord)
        for name, record in records_of(reply.content, ArrayRecord).items():
            if name not in models:
                continue
            model = layout_of(models[name])
            trained = any(dtype.kind == "f" for _, dtype in model.values())
            if trained and (why := unlike(model, views(record))) is not None:
                return why
        return None

    def _sender(self, reply: Message) -> int:
        if reply.metadata.src_node_id != SERVER_NODE:
            return reply.metadata.src_node_id
        # Errors made by the infrastructure name the SuperLink as their source.
        question = reply.metadata.reply_to_message_id
        return next((m.metadata.dst_node_id for m in self._messages if m.metadata.message_id == question), SERVER_NODE)

    def _raise_failed(self) -> None:
        (name, *others), reason = map(self._grid.client_name, self._failed), next(iter(self._failed.values()))
        raise ClientFailed(name, reason, others=others)

    def _check_silent(self) -> None:
        named = {self._grid.client_name(node): why for node, why in self._failed.items()}
        self._failures.update({name: why.removeprefix(REFUSED) for name, why in named.items()})
        if len(self._failed) + self._missing <= self._allowed:
            return
        failed = f", {len(self._failed)} failed" if self._failed else ""
        raise BadInput(
            f"{self._missing} of {len(self._messages)} clients did not answer within {self._timeout} s"
            f"{failed}: raise the timeout, or `tolerate` the share that may be late or fail "
            f"(now {self._allowed} of the round's clients)"
        )


@dataclass(frozen=True)
class SecureReply:
    """The reply that stands for all clients of a secure sum.

    Attributes:
        reply: Sum of what they would have answered.
        lost: Nodes that were asked and are not in it.
    """

    reply: Message
    lost: list[int]

    def __iter__(self) -> Iterator[Message]:
        yield self.reply


def lost(replies: Iterable[Message]) -> list[int]:
    """Return the nodes of which nothing was aggregated, once replies have been walked through."""
    if isinstance(replies, (Replies, SecureReply)):
        return replies.lost
    return [reply.metadata.src_node_id for reply in replies if reply.has_error()]


def taken(replies: Iterable[Message], take: Callable[[Message], T]) -> Iterator[tuple[int, T]]:
    """Yield the node of every reply that is no error, and what a function makes of the reply.

    Args:
        replies: Answers of the nodes.
        take: Function of a reply, called as it arrives; one on which it raises BadInput is refused, as a failure of its
            client.

    Raises:
        ClientFailed: More clients' replies are refused than may fail; the first is named.
    """
    for reply in replies:
        if reply.has_error():
            continue
        try:
            answer = take(reply)
        except BadInput as error:
            refuse(replies, reply, error)
            continue
        yield reply.metadata.src_node_id, answer


def sum_of(replies: Iterable[Message]) -> dict[str, np.ndarray]:
    """Return the sums of the arrays of all replies, by name.

    Raises:
        BadInput: Nobody answered.
    """
    total = ArraySum()
    for _ in taken(replies, lambda reply: total.add(reply.content)):
        pass
    records = records_of(total.content(), ArrayRecord)
    sums = {name: array for record in records.values() for name, array in from_record(record).items()}
    if not sums:
        raise BadInput("no client has answered: there is nothing to add")
    return sums


def refuse(replies: Iterable[Message], reply: Message, why: BadInput) -> None:
    """Refuse a reply: as a failure of its client where failures are counted, as an error otherwise.

    Raises:
        ClientFailed, BadInput: More clients have failed than are tolerated, or nobody counts.
    """
    if not isinstance(replies, Replies):
        raise BadInput(f"the reply of node {reply.metadata.src_node_id} was refused: {why}") from why
    replies.refuse(reply, why)


def _num_examples(reply: Message) -> float | None:
    for record in records_of(reply.content, MetricRecord).values():
        if WEIGHT in record:
            value = record[WEIGHT]
            return None if isinstance(value, list) else value
    return None
