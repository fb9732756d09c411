"""A federation is a dataset and who holds which of its training rows.

parts_1 + ... + parts_k = the rows of the train split, disjoint

It is the one thing a simulation needs to know about data. It costs a second to make and nothing to keep, so
the last few are remembered by (source, partition, clients, seed), which fully determine it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Int64

from fedlab.data.dataset import Dataset, Split
from fedlab.data.partition import Partition
from fedlab.errors import BadInput


class Source(Protocol):
    """Where a dataset comes from: a frozen, hashable description that can be loaded."""

    def load(self) -> Dataset:
        """Return the dataset, checked."""
        ...


@dataclass(frozen=True, eq=False)
class Federation:
    """Who holds what.

    Args:
        dataset: Data of everybody together; its test split belongs to the server.
        parts: Rows of `dataset.train` per client, k arrays; every row in exactly one.
    """

    dataset: Dataset
    parts: tuple[np.ndarray, ...]

    @property
    def num_clients(self) -> int:
        """The number of clients, k, those without samples included."""
        return len(self.parts)

    @cached_property
    def sizes(self) -> Int64[np.ndarray, " k"]:
        """Number of samples of each client, (k,)."""
        return np.array([len(part) for part in self.parts], dtype=np.int64)

    def client(self, partition_id: int) -> Split:
        """Return the samples of one client; may be empty.

        Raises:
            BadInput: partition_id outside [0, k).
        """
        if not 0 <= partition_id < self.num_clients:
            raise BadInput(f"client {partition_id} does not exist: this federation has ids in [0, {self.num_clients})")
        return self.dataset.train.take(self.parts[partition_id])

    def label_counts(self) -> Int64[np.ndarray, "k c"]:
        """Count each client's samples of each class, (k, c)."""
        labels, c = self.dataset.train.labels, self.dataset.num_classes
        return np.stack([np.bincount(labels[part], minlength=c) for part in self.parts]).astype(np.int64)


def federate(source: Source, partition: Partition, clients: int | None, seed: int) -> Federation:
    """Load `source` and deal its training rows to `clients` clients; the last 4 federations are remembered.

    Equal arguments give the same object, unless a file that the source names has changed since.

    Args:
        source, partition: Descriptions, hashable, as in `fedlab.data.sources.catalogue` and `fedlab.data.partition`.
        clients: Number of clients k >= 1, or None where natural ids decide.
        seed: Seed of the dealing; the source holds its own seed for what it holds out.

    Raises:
        BadInput: Whatever the source or the partition refuses.
    """
    return _federate(source, partition, clients, seed, _stamp(source))


@functools.lru_cache(maxsize=4)
def _federate(source: Source, partition: Partition, clients: int | None, seed: int, stamp: tuple) -> Federation:
    dataset = _load(source, stamp)
    parts = partition.split(dataset.train.labels, dataset.train.groups, clients, seed)
    return Federation(dataset, tuple(parts))


@functools.lru_cache(maxsize=2)
def _load(source: Source, stamp: tuple) -> Dataset:
    # Remembered apart from the federations: a sweep over partitions shares one copy of the data.
    return source.load()


def _stamp(source: Source) -> tuple:
    """(time, size) of every local file the source names, so that an edited file is read again."""
    named = [getattr(source, attribute, None) for attribute in ("path", "test")]
    paths = [path for value in named if value and isinstance(value, str) and (path := Path(value)).exists()]
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return tuple((str(file), (stat := file.stat()).st_mtime_ns, stat.st_size) for file in files)
