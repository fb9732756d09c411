"""A client stream: which samples each client meets at which step, when data arrive as a stream of tasks.

    met(k, s) = the rows of client k in the tasks that it observes at step s

A stream orders everyone's training rows into tasks, a partition deals them to clients, a calendar says which
client is at which task when. A step is a task where all clients keep step; one that lags, joins late or
was away meets later what the others met before. Every row is met at most once.

n rows, k clients, c classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate

import numpy as np
from jaxtyping import Int64

from fedlab.data.federation import Federation
from fedlab.data.streams.availability import Availability
from fedlab.data.streams.tasks import Stream, Tasks
from fedlab.randomness import rng_for

NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class EvaluationTask:
    """An evaluation task: test rows that are scored together, and when what they are about was learnt.

    Attributes:
        rows: Rows of the test split.
        begun, ended: Steps, the first and the last, at which anyone meets a sample of a task that they belong to.
    """

    rows: Int64[np.ndarray, " m"]
    begun: int
    ended: int


@dataclass(frozen=True, eq=False)
class ClientStream:
    """The steps of a federation over a stream.

    Args:
        federation: Federation: who holds which rows.
        tasks: Tasks of the stream, over all rows.
        calendar: Tasks that a client observes, per step and client; None where all keep step.
        seed: Seed of what a client with a memory keeps.
    """

    federation: Federation
    tasks: Tasks
    calendar: Sequence[Sequence[Sequence[int]]] | None = None
    seed: int = 0
    _dealt: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.tasks) if self.calendar is None else len(self.calendar)

    def met(self, client: int, step: int) -> Int64[np.ndarray, " m"]:
        """Return the training rows that a client meets at a step, in order of arrival; there may be none."""
        deals = map(self._deal, (step,) if self.calendar is None else self.calendar[step][client])
        return np.concatenate([NOTHING, *(rows[bounds[client] : bounds[client + 1]] for rows, bounds in deals)])

    def remembered(self, client: int, step: int, memory: int | None) -> Int64[np.ndarray, " m"]:
        """Return the rows that a client still has of the steps before this one.

        What a buffer of `memory` samples holds that keeps its classes even and, within a class, the samples of
        the smallest random keys: it can be kept online, and equals a uniform sample of each class so far.

        Args:
            memory: Samples in the buffer; None for all that were met.
        """
        before = [self.met(client, earlier) for earlier in range(step)] if memory != 0 else []
        rows = np.concatenate([NOTHING, *before])
        if memory is None or len(rows) <= memory:
            return rows
        rows = rows[np.argsort(self._keys[rows], kind="stable")]
        labels = self._labels[rows]
        place = np.empty(len(rows), dtype=np.int64)  # of a row within its class, by key
        for label in np.unique(labels):
            mine = labels == label
            place[mine] = np.arange(mine.sum())
        return np.sort(rows[np.argsort(place, kind="stable")[:memory]])

    def seen(self, step: int) -> Int64[np.ndarray, " m"]:
        """Return the rows that anyone has met up to and including a step."""
        return np.concatenate([NOTHING, *self.everyone[: step + 1]])

    @cached_property
    def everyone(self) -> Sequence[Int64[np.ndarray, " m"]]:
        """Rows that anyone meets, per step: in the tasks' order where all keep step."""
        if self.calendar is None:
            return self.tasks.rows
        clients = range(self.federation.num_clients)
        return [np.concatenate([NOTHING, *(self.met(k, step) for k in clients)]) for step in range(len(self))]

    @cached_property
    def arrived(self) -> list[int]:
        """Number of samples that anyone has met by the end of each step."""
        return list(accumulate(map(len, self.everyone)))

    @cached_property
    def exposed(self) -> list[Int64[np.ndarray, " e"]]:
        """Classes that anyone has met a sample of by the end of each step."""
        return list(accumulate((np.unique(self._labels[rows]) for rows in self.everyone), np.union1d))

    @cached_property
    def evaluation_tasks(self) -> tuple[EvaluationTask, ...]:
        """What is evaluated apart: tasks that share their test rows are one."""
        places: dict[bytes, list[int]] = {}
        for task, rows in enumerate(self.tasks.test):
            places.setdefault(rows.tobytes(), []).append(task)
        met: dict[int, list[int]] = {}
        for step, here in enumerate(self._met):
            for task in here:
                met.setdefault(task, []).append(step)
        steps = ((tasks[0], [step for task in tasks for step in met.get(task, [])]) for tasks in places.values())
        return tuple(EvaluationTask(self.tasks.test[task], min(when), max(when)) for task, when in steps if when)

    def evaluated_rows(self, step: int) -> Int64[np.ndarray, " m"]:
        """Return the test rows that a model is evaluated on after a step: of tasks begun, of classes exposed."""
        begun = sorted(self._begun[step])
        rows = np.unique(np.concatenate([NOTHING, *(self.tasks.test[task] for task in begun)]))
        return rows[np.isin(self.federation.dataset.test.labels[rows], self.exposed[step])]

    def _deal(self, task: int) -> tuple[np.ndarray, np.ndarray]:
        """A task's rows by who holds them, in their order of arrival, and where each client's begin."""
        if task not in self._dealt:
            rows = self.tasks.rows[task]
            holders = self._holder[rows]
            order = np.argsort(holders, kind="stable")
            bounds = np.searchsorted(holders[order], np.arange(self.federation.num_clients + 1))
            self._dealt[task] = rows[order], bounds
        return self._dealt[task]

    @cached_property
    def _labels(self) -> np.ndarray:
        return self.federation.dataset.train.labels

    @cached_property
    def _keys(self) -> np.ndarray:
        return rng_for(self.seed, "memory").permutation(len(self._labels))

    @cached_property
    def _holder(self) -> np.ndarray:
        holder = np.empty(len(self._labels), dtype=np.int64)
        for client, part in enumerate(self.federation.parts):
            holder[part] = client
        return holder

    @cached_property
    def _met(self) -> list[set[int]]:
        """Per step, the tasks that anyone meets a sample of."""
        if self.calendar is None:
            return [{step} if len(rows) else set() for step, rows in enumerate(self.tasks.rows)]
        held = [np.diff(self._deal(task)[1]) > 0 for task in range(len(self.tasks))]
        return [
            {task for client, tasks in enumerate(day) for task in tasks if held[task][client]} for day in self.calendar
        ]

    @cached_property
    def _begun(self) -> list[set[int]]:
        return list(accumulate(self._met, set.union))


@lru_cache(maxsize=4)
def client_stream(
    federation: Federation, stream: Stream, seed: int, availability: Availability | None = None
) -> ClientStream:
    """Return the client stream of a federation; the same arguments, the same object.

    Args:
        federation, stream: Federation and stream: who holds what, and what comes when.
        seed: Seed of the stream, of availability and of memories.
        availability: Availability: who is there when; None where all clients keep step.

    Raises:
        BadInput: The dataset cannot come as this stream.
    """
    dataset = federation.dataset
    tasks = stream.tasks(dataset.train, dataset.test, dataset.num_classes, seed)
    calendar = None
    if availability is not None and not availability.in_step:
        calendar = availability.calendar(federation.num_clients, len(tasks), seed)
    return ClientStream(federation, tasks, calendar, seed)
