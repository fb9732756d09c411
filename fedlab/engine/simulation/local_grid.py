"""LocalGrid: Flower's Grid in this process, without Ray: for notebooks, debugging, sweep jobs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from flwr.app import Message
from flwr.clientapp import ClientApp

from fedlab.engine.messages.broadcast import take
from fedlab.engine.messages.partial_sums import NewSum
from fedlab.engine.simulation.faults import Fault
from fedlab.engine.simulation.host import Host
from fedlab.engine.simulation.schedule import Call
from fedlab.engine.simulation.simulated import SimulatedGrid


class LocalGrid(SimulatedGrid):
    """Runs one client after the other, in this process, in the order of the messages.

    Args:
        client_app: ClientApp of Flower, or 'module:attribute'.
        run_config: Config that `context.run_config` shows to the clients.
        num_nodes, chunk, sizes, faults, seed: As of a `SimulatedGrid`; in one process `sizes` are of no consequence.

    Examples:
        >>> from flwr.clientapp import ClientApp
        >>> list(LocalGrid(ClientApp(), num_nodes=3).get_node_ids())
        [2, 3, 4]
    """

    def __init__(
        self,
        client_app: ClientApp | str,
        num_nodes: int,
        run_config: Mapping[str, str] | None = None,
        chunk: int | None = None,
        sizes: Sequence[float] | np.ndarray | None = None,
        faults: Iterable[Fault] = (),
        seed: int = 0,
    ):
        super().__init__(num_nodes, 1, chunk, sizes, faults, seed)
        self._host = Host(client_app, num_nodes, run_config or {}, self.plan)

    def _answers(
        self, messages: Sequence[Message], waiting: list[Call], partial_sum: NewSum | None, deadline: float
    ) -> Iterator[tuple[int, list[Message]]]:
        """Run each message, or each block, when its reply is asked for."""
        for call in waiting:
            replies = self._host.answer(take(messages, call.places), partial_sum)
            for place in call.places.tolist() if partial_sum is None else [call.first]:
                if time.monotonic() > deadline:
                    return
                answered = next(replies, None)
                if answered is None or time.monotonic() > deadline:
                    break
                yield place, answered

    def _restart(self, run_config: dict[str, str]) -> None:
        self._host.restart(run_config)

    def node_states(self) -> dict[int, bytes]:
        """See `SimulatedGrid`."""
        return self._host.states()

    def set_node_states(self, states: Mapping[int, bytes]) -> None:
        """See `SimulatedGrid`."""
        self._host.remember(states)
