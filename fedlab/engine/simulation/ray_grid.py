"""RayGrid: Flower's Grid over Ray actors. Nodes are pinned, messages travel in chunks, replies stream back.

A node always lives in the same worker, so its data, features and state stay where they are and only messages
travel. Replies are yielded in the order of the messages, and sums are formed by blocks of clients: a strategy
that adds floating-point numbers gets the same bits from 1, 2 or 100 workers. What a node remembers comes back
with its replies: a worker that dies is replaced, its nodes remember what they did before the call it died in,
and the call is made again, so that the result does not change.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from flwr.app import Message
from flwr.clientapp import ClientApp
from ray.exceptions import ObjectLostError, RayActorError

from fedlab import checks
from fedlab.engine.messages.broadcast import take
from fedlab.engine.messages.partial_sums import NewSum
from fedlab.engine.simulation import cluster
from fedlab.engine.simulation.faults import Fault
from fedlab.engine.simulation.host import load_client_app, partition_of
from fedlab.engine.simulation.schedule import LONGEST_CALL, Call, Queue
from fedlab.engine.simulation.simulated import SimulatedGrid
from fedlab.engine.simulation.worker import Worker
from fedlab.errors import BadInput

IN_FLIGHT = 2
"""Chunks under way per worker: one that runs, one that waits so that the worker never does."""
MAX_TRIES = 3
"""A call over which so many workers have died is given up."""


class RayGrid(SimulatedGrid):
    """Runs clients in Ray actors, on this machine or on a cluster.

    Args:
        client_app: ClientApp of Flower, or 'module:attribute'.
        run_config: Config that `context.run_config` shows to the clients.
        num_workers: Number of actors.
        cpus_per_worker, gpus_per_worker: Share of the machine that each actor reserves; a fraction of a GPU is legal.
        address: Address of a running cluster, 'auto' or 'host:port'; None starts Ray here.
        num_nodes, chunk, sizes, faults, seed: As of a `SimulatedGrid`; nodes are shared out so that workers have
            equally much to do.
    """

    def __init__(
        self,
        client_app: ClientApp | str,
        num_nodes: int,
        run_config: Mapping[str, str] | None = None,
        num_workers: int = 2,
        cpus_per_worker: float = 1,
        gpus_per_worker: float = 0,
        address: str | None = None,
        chunk: int | None = None,
        sizes: Sequence[float] | np.ndarray | None = None,
        faults: Iterable[Fault] = (),
        seed: int = 0,
    ):
        checks.integer("engine.num_workers", num_workers, least=1)
        checks.number("engine.cpus_per_worker", cpus_per_worker, least=0, remedy="0.5 is half of one")
        checks.number("engine.gpus_per_worker", gpus_per_worker, least=0, remedy="0.5 is half of one")
        num_workers = min(num_workers, num_nodes) if isinstance(num_nodes, int) and num_nodes > 0 else 1
        super().__init__(num_nodes, num_workers, chunk, sizes, faults, seed)
        load_client_app(client_app)  # what cannot be loaded here is better refused before anything starts
        self._client_app, self._run_config = client_app, dict(run_config or {})
        self._workers: list[Any] = []
        self._states: dict[int, bytes] = {}
        self.restarts = 0
        """How many workers have died and been replaced."""
        self._owns_ray = not ray.is_initialized() and address is None
        wanted = {"CPU": num_workers * cpus_per_worker, "GPU": num_workers * gpus_per_worker}
        if self._owns_ray:  # what is known before Ray has taken its seconds to start
            cluster.check_room(num_workers, wanted, {"CPU": cluster.available_cpus(), "GPU": math.inf})
        try:
            cluster.connect(address, gpus=gpus_per_worker > 0)
            cluster.check_room(num_workers, wanted, ray.cluster_resources())
            self._actor = ray.remote(Worker).options(
                num_cpus=cpus_per_worker, num_gpus=gpus_per_worker, scheduling_strategy="SPREAD"
            )
            self._workers = [self._employ(worker) for worker in range(num_workers)]
            cluster.wait_for_workers(self._workers)
        except BaseException:
            self.close()
            raise

    def _employ(self, worker: int) -> Any:
        """Start an actor for a worker's nodes, with what they remember."""
        mine = {
            node: state
            for node, state in self._states.items()
            if self._home[partition_of(node) // self.chunk] == worker
        }
        return self._actor.remote(self._client_app, self.num_nodes, self._run_config, self.run.run_id, self.plan, mine)

    def _answers(
        self, messages: Sequence[Message], waiting: list[Call], partial_sum: NewSum | None, deadline: float
    ) -> Iterator[tuple[int, list[Message]]]:
        """Make calls, at most `IN_FLIGHT` to a worker, and yield what they return in its order."""
        if not self._workers:
            raise BadInput("this grid is closed: make another")
        queues = [Queue([call for call in waiting if call.worker == w]) for w in range(len(self._workers))]
        places = [call.first for call in waiting]
        if partial_sum is None:
            places = sorted(itertools.chain.from_iterable(call.places.tolist() for call in waiting))
        # Replies that cannot be yielded yet wait here; a fast worker must not fill the memory meanwhile.
        longest = self.chunk if partial_sum is not None else min(self.chunk, LONGEST_CALL)
        room = 2 * IN_FLIGHT * longest * len(self._workers)
        under_way: dict[Any, Call] = {}
        turns = itertools.count()
        replies: dict[int, list[Message]] = {}
        for place in places:
            while place not in replies:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                for worker in range(len(queues)):
                    while (busy := sum(call.worker == worker for call in under_way.values())) < IN_FLIGHT:
                        call = queues[worker].pop(before=place + room)
                        if call is None and not busy and partial_sum is not None:
                            call = self._help(worker, queues, place + room)
                        if call is None:
                            break
                        call = replace(call, turn=next(turns))
                        under_way[self._ask(call, messages, partial_sum, left)] = call
                ready, _ = ray.wait(list(under_way), timeout=None if math.isinf(left) else left)
                for reference in ready:
                    call = under_way.pop(reference)
                    try:
                        answered, states = ray.get(reference)
                    except (RayActorError, ObjectLostError) as error:  # its process, or its machine
                        self._replace(call, error, under_way, queues)
                        continue
                    self._learn(states)
                    if partial_sum is not None:
                        replies[call.first] = answered[0]
                        continue
                    replies.update(zip(call.places.tolist(), answered, strict=False))
                    if len(rest := call.places[len(answered) :]):
                        queues[call.worker].push(replace(call, places=rest, first=int(rest[0]), tries=0))
            yield place, replies.pop(place)

    def _help(self, worker: int, queues: list[Queue], before: int) -> Call | None:
        """Return a call of the worker with the most left to do, for one with nothing: the sum does not care.

        Only while no node remembers anything: what a node remembers stays with its worker.
        """
        if self._states:
            return None
        call = max(queues, key=len).give_away(before)
        return None if call is None else replace(call, worker=worker)

    def _ask(self, call: Call, messages: Sequence[Message], partial_sum: NewSum | None, left: float) -> Any:
        # With a deadline, replies are fetched often: who is late keeps few others out.
        seconds = left / 20 if math.isfinite(left) else math.inf
        worker = self._workers[call.worker]
        return worker.answer.remote(take(messages, call.places), partial_sum, call.tries == 0, seconds)

    def _learn(self, states: Mapping[int, bytes]) -> None:
        for node, state in states.items():
            if state:
                self._states[node] = state
            else:
                self._states.pop(node, None)

    def _replace(self, call: Call, error: Exception, under_way: dict[Any, Call], queues: list[Queue]) -> None:
        """Start another actor for a worker that died, and put the calls it leaves behind back in its queue."""
        # It answered in the order it was asked: whoever was first is to blame, the others were waiting behind.
        left = [call, *(other for other in under_way.values() if other.worker == call.worker)]
        left.sort(key=lambda other: other.turn)
        for reference in [r for r, other in under_way.items() if other.worker == call.worker]:
            del under_way[reference]
        if left[0].tries + 1 >= MAX_TRIES:
            raise BadInput(
                f"a Ray worker died {MAX_TRIES} times over the same {len(left[0].places)} clients "
                f"({str(error).strip().splitlines()[-1]}): often memory; try fewer engine.num_workers or a "
                "smaller engine.chunk"
            ) from error
        for again in [replace(left[0], tries=left[0].tries + 1), *left[1:]]:
            queues[call.worker].push(again)
        ray.kill(self._workers[call.worker])
        self._hire(call.worker)

    def _hire(self, worker: int) -> None:
        """Replace a worker's actor. Ray may not know yet that a machine is gone, and try to start it there."""
        self.restarts += 1
        deadline = time.monotonic() + cluster.START_TIMEOUT
        while True:
            self._workers[worker] = self._employ(worker)
            try:
                return cluster.wait_for_workers([self._workers[worker]])
            except BadInput:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def _restart(self, run_config: dict[str, str]) -> None:
        self._run_config = dict(run_config)
        self._states.clear()
        self._on_all("restart", run_config, self.run.run_id)

    def node_states(self) -> dict[int, bytes]:
        """See `SimulatedGrid`."""
        return dict(self._states)

    def set_node_states(self, states: Mapping[int, bytes]) -> None:
        """See `SimulatedGrid`."""
        self._states = dict(states)
        self._on_all("recall", self._states)

    def _on_all(self, method: str, *values: object) -> None:
        """Call a method of every worker; one that has died meanwhile is replaced, and needs no call."""
        calls = [getattr(worker, method).remote(*values) for worker in self._workers]
        for worker, call in enumerate(calls):
            try:
                ray.get(call)
            except RayActorError:
                self._hire(worker)

    def close(self) -> None:
        """End the actors, and Ray if this grid started it."""
        if ray.is_initialized():
            for worker in self._workers:
                ray.kill(worker)
        self._workers = []
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False
