"""Who works for whom, and in which order: blocks of clients on workers, calls of messages to them.

    block = partition // chunk        home(block) = the worker with the least to do, heaviest block first

Blocks depend on the federation only, never on the number of workers: what is summed within a block has the
same bits on 1 worker and on 100.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from fedlab import checks
from fedlab.errors import BadInput

LARGEST_CHUNK, BLOCKS = 1024, 16
"""Fewer blocks add up faster; more leave less to wait for at the end. 16 are enough for a machine's workers."""

LONGEST_CALL = 64
"""Messages per call whose replies come back one by one: what is kept until its turn stays small."""


@dataclass(frozen=True, eq=False)
class Call:
    """Messages that one worker answers in one call.

    Attributes:
        worker: Worker that answers.
        places: Places of the messages in their list, ascending.
        weight: Work that they are, in units of the sizes of clients.
        first: Place of its first message; of a block, of the block's first one, answered or not: who is lost then
            does not change the order in which the sums of blocks are added.
        tries: Number of times that the call has been made in vain.
        turn: Place in the order of all calls, of the last time it was made.
    """

    worker: int
    places: np.ndarray
    weight: float
    first: int
    tries: int = 0
    turn: int = 0


def chunk_of(num_nodes: int, chunk: int | None) -> int:
    """Return the number of clients in a block: as given, or for at most 16 blocks, or 1024 where that is too many."""
    if chunk is not None:
        return checks.integer("engine.chunk", chunk, 1, remedy="messages per call, or null to choose")
    return min(math.ceil(num_nodes / BLOCKS), LARGEST_CHUNK)


def weights_of(num_nodes: int, sizes: Sequence[float] | np.ndarray | None) -> np.ndarray:
    """Return each client's work, (k,): its size and a constant, for a client without samples costs too."""
    weights = np.ones(num_nodes) if sizes is None else np.asarray(sizes, dtype=np.float64) + 1.0
    if len(weights) != num_nodes:
        raise BadInput(f"engine: {len(weights)} sizes for {num_nodes} clients: give one for each")
    return weights


def homes(weights: np.ndarray, chunk: int, num_workers: int) -> np.ndarray:
    """Return the worker of every block, (b,): longest processing time first, so that all end together.

    Graham, Bounds on Multiprocessing Timing Anomalies, SIAM J. Appl. Math. 1969.
    """
    load = np.add.reduceat(weights, np.arange(0, len(weights), chunk))
    home = np.zeros(len(load), dtype=np.int64)
    workers = [(0.0, worker) for worker in range(num_workers)]
    for block in np.argsort(-load, kind="stable"):
        busy, worker = workers[0]
        home[block] = worker
        heapq.heapreplace(workers, (busy + float(load[block]), worker))
    return home


def calls(
    partitions: np.ndarray, places: np.ndarray, weights: np.ndarray, home: np.ndarray, chunk: int, by_block: bool
) -> list[Call]:
    """Return the calls that answer the messages at `places`.

    Args:
        partitions: Destination of every message, (m,).
        places: Places of those that are to be answered, ascending.
        weights, home: Work of the clients and workers of the blocks, as from `weights_of` and `homes`.
        chunk: Clients in a block.
        by_block: Whether a call holds all messages of one block, as sums need it; otherwise up to `chunk` messages of
            a worker, and `LONGEST_CALL`, in the order they were given.
    """
    blocks = partitions[places] // chunk
    known = np.flatnonzero((partitions >= 0) & (partitions < len(weights)))[::-1]
    opens = np.zeros(len(home), dtype=np.int64)
    opens[partitions[known] // chunk] = known  # the last one written is the first in the list
    groups = blocks if by_block else home[blocks]
    order = np.argsort(groups, kind="stable")
    borders = np.flatnonzero(np.diff(groups[order])) + 1
    made = []
    for group in np.split(order, borders) if len(order) else []:
        most = len(group) if by_block else min(chunk, LONGEST_CALL)
        for start in range(0, len(group), most):
            members = group[start : start + most]
            chosen, block = places[members], blocks[members[0]]
            first = int(opens[block]) if by_block else int(chosen[0])
            made.append(Call(int(home[block]), chosen, float(weights[partitions[chosen]].sum()), first))
    return sorted(made, key=lambda call: call.first)


class Queue:
    """The calls of one worker that wait: the longest first, among those that may start."""

    def __init__(self, waiting: Sequence[Call]):
        self._waiting = deque(waiting)
        self._again: list[Call] = []

    def __len__(self) -> int:
        return len(self._waiting) + len(self._again)

    def pop(self, before: int) -> Call | None:
        """Return the next call whose first message stands before this place; None if there is none."""
        return self._again.pop(0) if self._again else self._take(max, before)

    def give_away(self, before: int) -> Call | None:
        """Return the shortest call that may start and has not been tried, for a worker with nothing to do."""
        return self._take(min, before)

    def _take(self, choose: Callable[..., Call | None], before: int) -> Call | None:
        open_now = takewhile(lambda call: call.first < before, self._waiting)
        if (chosen := choose(open_now, key=lambda call: call.weight, default=None)) is not None:
            self._waiting.remove(chosen)
        return chosen

    def push(self, call: Call) -> None:
        """Put a call back, to be made before all others."""
        self._again.append(call)
