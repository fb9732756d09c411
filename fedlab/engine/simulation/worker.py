"""What RayGrid starts in processes of their own: a host, whose answers go back in parcels of bounded size.

A pickle would copy an array's bytes into itself, and the reader out of it again. In a parcel large arrays are buffers
beside the pickle: Ray writes them into shared memory once, and the reader takes them from there.
"""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Sequence
from typing import Any

from flwr.app import Array, Message
from flwr.clientapp import ClientApp
from ray.cloudpickle.cloudpickle import Pickler

from fedlab.engine.messages.identity import SERVER_NODE, become
from fedlab.engine.messages.partial_sums import NewSum
from fedlab.engine.messages.records import content_bytes
from fedlab.engine.simulation.allocator import keep_freed_memory
from fedlab.engine.simulation.faults import FaultPlan
from fedlab.engine.simulation.host import Host

REPLY_BYTES = 64 * 2**20
"""A call returns when its replies weigh so much; the rest of its messages are sent again."""
LARGE = 2**16
"""Bytes from which an array travels by itself; for smaller ones that costs more than it saves."""


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
        self.answered = answered

    def __reduce__(self) -> tuple[Any, ...]:
        light, buffers = io.BytesIO(), []
        _Pickler(light, protocol=5, buffer_callback=buffers.append).dump(self.answered)
        return _opened, (light.getvalue(), buffers)


class _Pickler(Pickler):
    """Ray's own, which leaves large arrays out."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Array) and len(obj.data) >= LARGE:
            return _array, (obj.dtype, obj.shape, obj.stype, pickle.PickleBuffer(obj.data))
        return super().reducer_override(obj)


def _array(dtype: str, shape: tuple[int, ...], stype: str, data: Any) -> Array:
    return Array(dtype, shape, stype, bytes(data))


def _opened(light: bytes, buffers: Sequence[Any]) -> list[list[Message]]:
    return pickle.loads(light, buffers=buffers)
