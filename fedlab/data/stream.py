"""A stream orders everyone's samples into tasks that come one after the other.

    tasks_1 + ... + tasks_T = the training rows, disjoint

It knows nothing of clients: a partition deals the same rows, and a `Course` puts both together. Each task has
its own test rows, on which what became of it is judged later.

n training rows, c classes, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from fedlab.data.dataset import Split
from fedlab.errors import BadInput, unknown


@dataclass(frozen=True, eq=False)
class Tasks:
    """What comes when.

    Parameters
    ----------
    rows
        Per task, its rows of the train split in order of arrival.
    test
        Per task, its own rows of the test split; tasks that differ in nothing but time share them all.
    """

    rows: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        """Return the number of tasks, T."""
        return len(self.rows)


class Stream(Protocol):
    """How samples come; hashable, so that courses can be remembered by it."""

    def tasks(self, train: Split, test: Split, num_classes: int, seed: int) -> Tasks:
        """Return the tasks of a dataset; the same seed gives the same ones, always.

        Raises
        ------
        BadInput
            A parameter outside its limits, or a dataset that cannot come so.
        """
        ...


@dataclass(frozen=True)
class ClassIncremental:
    """New classes in every task: first the base, then the others in equal phases. Rebuffi et al., iCaRL, CVPR 2017.

    Parameters
    ----------
    phases
        Tasks after the first. Classes that do not divide evenly go to the last.
    base
        Classes of the first task: a share of all in (0, 1), or their number.
    """

    phases: int = 5
    base: float = 0.5

    def tasks(self, train: Split, test: Split, num_classes: int, seed: int) -> Tasks:
        """See `Stream.tasks`; the classes come in an order drawn by the seed."""
        base = round(self.base * num_classes) if 0 < self.base < 1 else int(self.base)
        left = num_classes - base
        if base != self.base and not 0 < self.base < 1:
            raise BadInput(f"base={self.base} is neither a share in (0, 1) nor a number of classes")
        if not (1 <= base <= num_classes and 0 <= self.phases <= left and (self.phases or not left)):
            raise BadInput(
                f"{num_classes} classes cannot come as {base} and then {self.phases} phases: give base in "
                f"1..{num_classes} and phases in 1..{max(left, 1)}, or SampleIncremental for more phases"
            )
        order = np.random.default_rng(seed).permutation(num_classes)
        each = left // self.phases if self.phases else 0
        bounds = [0, *(base + each * phase for phase in range(self.phases)), num_classes]
        return _by_value(train.labels, test.labels, [order[a:b] for a, b in pairwise(bounds)])


@dataclass(frozen=True)
class SampleIncremental:
    """The same classes in every task: a seeded shuffle of all samples, cut into equal phases.

    Parameters
    ----------
    phases
        T, at least 1; those past the number of samples are empty.
    """

    phases: int = 5

    def tasks(self, train: Split, test: Split, num_classes: int, seed: int) -> Tasks:
        """See `Stream.tasks`."""
        if self.phases < 1:
            raise BadInput(f"phases={self.phases} must be at least 1")
        rows = np.array_split(np.random.default_rng(seed).permutation(len(train)), self.phases)
        return Tasks(tuple(rows), (np.arange(len(test)),) * self.phases)


@dataclass(frozen=True)
class DomainIncremental:
    """A domain in every task, the same classes in each: natural ids in sorted order.

    Parameters
    ----------
    group
        Name of the natural ids.
    """

    group: str = "domain"

    def tasks(self, train: Split, test: Split, num_classes: int, seed: int) -> Tasks:
        """See `Stream.tasks`."""
        for split in (train, test):
            if self.group not in split.groups:
                raise unknown("group", self.group, split.groups)
        ids, of_test = train.groups[self.group], test.groups[self.group]
        return _by_value(ids, of_test, [np.array([one]) for one in np.unique(ids)])


def _by_value(train: np.ndarray, test: np.ndarray, values: Sequence[np.ndarray]) -> Tasks:
    """Rows by the values (classes or domains) of each task, in the dataset's order within a task."""
    rows = tuple(np.flatnonzero(np.isin(train, own)) for own in values)
    return Tasks(rows, tuple(np.flatnonzero(np.isin(test, own)) for own in values))
