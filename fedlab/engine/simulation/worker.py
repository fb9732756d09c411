"""What RayGrid starts in processes of their own: a host, whose answers go back in parcels of bounded size."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from flwr.app import Message
from flwr.clientapp import ClientApp

from fedlab.engine.messages.identity import SERVER_NODE, become
from fedlab.engine.messages.partial_sums import PartialSum
from fedlab.engine.messages.records import content_bytes
from fedlab.engine.simulation.allocator import keep_freed_memory
from fedlab.engine.simulation.faults import FaultPlan
from fedlab.engine.simulation.host import Host
from fedlab.engine.simulation.parcel import Parcel

REPLY_BYTES = 64 * 2**20
"""A call returns when its replies weigh so much; the rest of its messages are sent again."""


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
        self,
        messages: Sequence[Message],
        partial_sum: Callable[[], PartialSum] | None,
        first_try: bool,
        retry_for: float,
    ) -> tuple[Parcel, dict[int, bytes]]:
        """Answer the messages, or as many as fit into one reply; return what their nodes now remember, too."""
        answered: list[list[Message]] = []
        num_bytes, give_back = 0, time.monotonic() + retry_for
        for replies in self._host.answer(messages, partial_sum, first_try):
            answered.append(replies)
            num_bytes += sum(content_bytes(reply.content) for reply in replies if reply.has_content())
            if num_bytes > REPLY_BYTES or time.monotonic() > give_back:
                break
        return Parcel(answered), self._host.changes()
