"""A stream orders everyone's samples into tasks that come one after the other.

    tasks_1 + ... + tasks_T = the training rows, disjoint

It knows nothing of clients: a partition deals the same rows, and a `ClientStream` puts both together. Each task has
its own test rows, on which what became of it is evaluated later. Streams compose: `Online` cuts the tasks of
another into batches, `LongTailed` thins the rows and hands what is left to another.

n training rows, c classes, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from fedlab import checks
from fedlab.data.dataset import Split
from fedlab.errors import BadInput, unknown
from fedlab.randomness import rng_for

ORDERS = ("shuffled", "given", "descending", "ascending")


@dataclass(frozen=True, eq=False)
class Tasks:
    """What comes when.

    Args:
        rows: Rows of the train split per task, in order of arrival.
        test: Rows of the test split per task; tasks that differ in nothing but time share them all.
    """

    rows: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        """Return the number of tasks, T."""
        return len(self.rows)


class Stream(Protocol):
    """How samples come; hashable, so that client streams can be remembered by it."""

    def tasks(self, train: Split, test: Split, num_classes: int, seed: int) -> Tasks:
        """Return the tasks of a dataset; the same seed gives the same ones, always.

        Raises:
            BadInput: A parameter outside its limits, or a dataset that cannot come so.
        """
        ...


@dataclass(frozen=True)
class ClassIncremental:
    """New classes in every task: first the base, then the others in equal phases. Rebuffi et al., iCaRL, CVPR 2017.

    Args:
        phases: Tasks after the first. Classes that do not divide evenly go to the last.
        base: Classes of the first task: a share of all in (0, 1), or their number.
        order: Order of the classes: "shuffled" by the seed; "given" by label; "descending", "ascending" by training
            samples.
    """

    phases: int = 5
    base: float = 0.5
    order: str = "shuffled"

    def __post_init__(self) -> None:
        checks.integer("phases", self.phases, least=0)
        remedy = "give a share of the classes in (0, 1), or their number"
        checks.number("base", self.base, above=0, remedy=remedy)
        if self.base >= 1 and not float(self.base).is_integer():
            raise BadInput(f"base={self.base} is neither: {remedy}")
        checks.choice("order", self.order, ORDERS)

    def tasks(self, train: Split, test: Split, num_classes: int, seed: int) -> Tasks:
        """See `Stream.tasks`."""
        base = round(self.base * num_classes) if self.base < 1 else int(self.base)
        left = num_classes - base
        if not (1 <= base <= num_classes and 0 <= self.phases <= left and (self.phases or not left)):
            raise BadInput(
                f"{num_classes} classes cannot come as {base} and then {self.phases} phases: give base in "
                f"1..{num_classes} and phases in 1..{max(left, 1)}, or SampleIncremental for more phases"
            )
        order = self._classes(train.labels, num_classes, seed)
        each = left // self.phases if self.phases else 0
        bounds = [0, *(base + each * phase for phase in range(self.phases)), num_classes]
        return _by_value(train.labels, test.labels, [order[a:b] for a, b in pairwise(bounds)])

    def _classes(self, labels: np.ndarray, num_classes: int, seed: int) -> np.ndarray:
        if self.order in ("shuffled", "given"):
            drawn = rng_for(seed, "classes").permutation(num_classes)
            return drawn if self.order == "shuffled" else np.sort(drawn)
        counts = np.bincount(labels, minlength=num_classes)
        return np.argsort(-counts if self.order == "descending" else counts, kind="stable")


@dataclass(frozen=True)
class SampleIncremental:
    """The same classes in every task: all samples, cut into equal phases.

    Args:
        phases: Number of tasks T, at least 1; those past the number of samples are empty.
        shuffled: Shuffling by the seed first; False keeps the dataset's own order, such as time.
    """

    phases: int = 5
    shuffled: bool = True

    def __post_init__(self) -> None:
        checks.integer("phases", self.phases, least=1)

    def tasks(self, train: Split, test: Split, num_classes: int, seed: int) -> Tasks:
        """See `Stream.tasks`."""
        rows = rng_for(seed, "samples").permutation(len(train)) if self.shuffled else np.arange(len(train))
        return Tasks(tuple(np.array_split(rows, self.phases)), (np.arange(len(test)),) * self.phases)


@dataclass(frozen=True)
class DomainIncremental:
    """A domain in every task, the same classes in each: natural ids in sorted order.

    A domain that only the test split has comes in no task and is not evaluated.

    Args:
        group: Name of the natural ids.
    """

    group: str = "domain"

    def tasks(self, train: Split, test: Split, num_classes: int, seed: int) -> Tasks:
        """See `Stream.tasks`."""
        for split in (train, test):
            if self.group not in split.groups:
                raise unknown("group", self.group, split.groups)
        ids, of_test = train.groups[self.group], test.groups[self.group]
        return _by_value(ids, of_test, [np.array([one]) for one in np.unique(ids)])


@dataclass(frozen=True)
class Online:
    """Every sample once, a few at a time: the tasks of another stream, each shuffled and cut into batches.

    A batch is a task of its own, evaluated on the test rows of the task that it was cut from; the last of each is
    smaller where its samples do not divide, and a task without samples stays one empty batch. Aljundi et al.,
    Task-Free Continual Learning, CVPR 2019, https://arxiv.org/abs/1812.03596.

    Args:
        batch: Samples of everyone that arrive together, at least 1.
        stream: Stream that is cut; None for one task with all samples.
    """

    batch: int = 100
    stream: Stream | None = None

    def __post_init__(self) -> None:
        checks.integer("batch", self.batch, least=1)

    def tasks(self, train: Split, test: Split, num_classes: int, seed: int) -> Tasks:
        """See `Stream.tasks`."""
        tasks = (self.stream or SampleIncremental(1)).tasks(train, test, num_classes, seed)
        rng = rng_for(seed, "online")
        rows, test_rows = [], []
        for own, its_test in zip(tasks.rows, tasks.test, strict=True):
            batches = max(1, -(-len(own) // self.batch))
            shuffled = own[rng.permutation(len(own))]
            rows += [shuffled[start : start + self.batch] for start in range(0, batches * self.batch, self.batch)]
            test_rows += [its_test] * batches
        return Tasks(tuple(rows), tuple(test_rows))


def _by_value(train: np.ndarray, test: np.ndarray, values: Sequence[np.ndarray]) -> Tasks:
    """Rows by the values (classes or domains) of each task, in the dataset's order within a task."""
    rows = tuple(np.flatnonzero(np.isin(train, own)) for own in values)
    return Tasks(rows, tuple(np.flatnonzero(np.isin(test, own)) for own in values))
