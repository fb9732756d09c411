"""What RayGrid starts in processes of their own: a host, whose answers go back in parcels of bounded size.

A pickle would copy an array's bytes into itself, and the reader out of it again. In a parcel large arrays are buffers
beside the pickle: Ray writes them into shared memory once, and the reader takes them from there.
"""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Sequence
from typing import Any

from flwr.app import Array, ArrayRecord, Message
from flwr.clientapp import ClientApp

from fedlab.engine.messages.identity import SERVER_NODE, become
from fedlab.engine.messages.partial_sums import NewSum
from fedlab.engine.messages.records import content_bytes, records_of
from fedlab.engine.simulation.allocator import keep_freed_memory
from fedlab.engine.simulation.faults import FaultPlan
from fedlab.engine.simulation.host import Host

REPLY_BYTES = 64 * 2**20
"""A call returns when its replies weigh so much; the rest of its messages are sent again."""
LARGE = 2**16
"""Bytes from which an array travels by itself; for smaller ones that costs more than it saves."""
Place = tuple[int, str, str]
"""Position of a message, name of a record, name of an array."""


class Worker:
    """The actor."""

    def __init__(
        self,
        client_app: ClientApp | str,
        num_nodes: int,
        run_config: dict[str, str],
        run_id: int,
        plan: FaultPlan,
        states: dict[int, bytes],
    ):
        keep_freed_memory()
        become(run_id, SERVER_NODE)
        self._host = Host(client_app, num_nodes, run_config, plan, mortal=True)
        self._host.remember(states)

    def restart(self, run_config: dict[str, str], run_id: int) -> None:
        """Begin another run."""
        become(run_id, SERVER_NODE)
        self._host.restart(run_config)

    def recall(self, states: dict[int, bytes]) -> None:
        """Let the nodes remember this, and nothing else."""
        self._host.forget()
        self._host.remember(states)

    def answer(
        self, messages: Sequence[Message], partial_sum: NewSum | None, first_try: bool, seconds: float
    ) -> tuple[Parcel, dict[int, bytes]]:
        """Answer the messages, or as many as fit into one reply and so many seconds, and what their nodes remember."""
        answered: list[list[Message]] = []
        num_bytes, give_back = 0, time.monotonic() + seconds
        for replies in self._host.answer(messages, partial_sum, first_try):
            answered.append(replies)
            num_bytes += sum(content_bytes(reply.content) for reply in replies if reply.has_content())
            if num_bytes > REPLY_BYTES or time.monotonic() > give_back:
                break
        return Parcel(answered), self._host.changes()


class Parcel:
    """Lists of replies, as a worker returns them; unpickled, it is those lists.

    Args:
        answered: Replies, in lists.
    """

    def __init__(self, answered: Sequence[Sequence[Message]]):
        self.answered = [list(replies) for replies in answered]

    def __reduce__(self) -> tuple[Any, ...]:
        counts = [len(replies) for replies in self.answered]
        light: list[Message] = []
        places: list[Place] = []
        buffers: list[pickle.PickleBuffer] = []
        for replies in self.answered:
            for message in replies:
                light.append(_lightened(message, len(light), places, buffers))
        return _opened, (counts, light, places, buffers)


def _lightened(message: Message, position: int, places: list[Place], buffers: list[pickle.PickleBuffer]) -> Message:
    """Return the message without its large arrays, which are noted; a message is not changed."""
    if not message.has_content():
        return message
    content = None
    for name, record in records_of(message.content, ArrayRecord).items():
        large = {key: array for key, array in record.items() if len(array.data) >= LARGE}
        if not large:
            continue
        content = content or message.content.copy()
        lighter = dict(record)
        for key, array in large.items():
            places.append((position, name, key))
            buffers.append(pickle.PickleBuffer(array.data))
            lighter[key] = Array(array.dtype, array.shape, array.stype, b"")
        content[name] = ArrayRecord(lighter)
    if content is None:
        return message
    lightened = copy.copy(message)
    lightened.content = content
    return lightened


def _opened(counts: list[int], light: list[Message], places: list[Place], buffers: list[Any]) -> list[list[Message]]:
    for (position, name, key), buffer in zip(places, buffers, strict=True):
        record = records_of(light[position].content, ArrayRecord)[name]
        array = record[key]
        record[key] = Array(array.dtype, array.shape, array.stype, bytes(buffer))
    replies = iter(light)
    return [[next(replies) for _ in range(count)] for count in counts]
