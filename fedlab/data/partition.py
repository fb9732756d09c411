"""A partition deals every training sample to exactly one client.

parts_1 + ... + parts_k = {0, ..., n - 1}, disjoint

The dealing itself is Flower Datasets' (https://flower.ai/docs/datasets): its partitioners see a table of (row, label)
in seeded random order. They refuse more partitions than rows, and shards drop the remainder of n / (k s); so the table
is first padded with rows numbered -1 whose labels repeat the data's own distribution, and the padding is dropped from
what comes back. A client without a sample is legal, and nothing is ever redrawn.

k clients, n samples, s shards per client.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fedlab import checks
from fedlab.errors import BadInput, unknown

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

Groups = Mapping[str, np.ndarray]
# Past this, Dirichlet shares are even to nine digits; far past it, their sum overflows.
MAX_ALPHA = 1e9
# Each shard and each client costs a row of the table.
MAX_ROWS = 10_000_000


class Partition(Protocol):
    """How samples are dealt to clients; hashable, so that federations can be cached by it."""

    def split(self, labels: np.ndarray, groups: Groups, clients: int | None, seed: int) -> list[np.ndarray]:
        """Return k arrays of rows, int64, ascending: each row of `labels` is in exactly one of them.

        Args:
            labels: Classes, (n,) int64.
            groups: Natural ids by name, (n,) each.
            clients: Number of clients k >= 1; None where the natural ids decide.
            seed: Seed of the dealing; the same seed gives the same parts, always.

        Raises:
            BadInput: Clients below 1, a parameter outside its limits, or an unknown group.
        """
        ...


@dataclass(frozen=True)
class Iid:
    """Every client gets a uniform sample of (nearly) the same size."""

    def split(self, labels: np.ndarray, groups: Groups, clients: int | None, seed: int) -> list[np.ndarray]:
        """See `Partition.split`."""
        k, n = _check_clients(clients), _check_samples(labels)
        # What flwr-datasets' IidPartitioner deals (a test compares), without its half millisecond per client:
        # contiguous shares of a shuffled table, of which the first ones are a row longer.
        rows = _shuffle(max(n, k), seed)
        return [np.sort(part[part < n]) for part in np.array_split(rows, k)]


@dataclass(frozen=True)
class Dirichlet:
    """Label skew: each class is shared out by proportions drawn from Dirichlet(alpha, ..., alpha).

    Args:
        alpha: Concentration in (0, 1e9]; towards 0 a class lives on one client, towards infinity every client gets
            the same share of each class (rounded alike for all, where clients outnumber its samples).

    References:
        Hsu, Qi, Brown 2019, https://arxiv.org/abs/1909.06335; Yurochkin et al. 2019, https://arxiv.org/abs/1905.12022
    """

    alpha: float

    def __post_init__(self) -> None:
        remedy = "0.1 is strongly skewed, 100 nearly even; for even shares use the iid partition"
        checks.number("alpha", self.alpha, above=0, most=MAX_ALPHA, remedy=remedy)

    def split(self, labels: np.ndarray, groups: Groups, clients: int | None, seed: int) -> list[np.ndarray]:
        """See `Partition.split`."""
        from flwr_datasets.partitioner import DirichletPartitioner

        k = _check_clients(clients)
        partitioner = DirichletPartitioner(
            num_partitions=k,
            partition_by="label",
            alpha=float(self.alpha),
            min_partition_size=0,  # an empty client is legal: no draw is ever repeated
            self_balancing=False,
            shuffle=False,
            seed=seed,
        )
        return _deal(partitioner, k, labels, seed, rows=max(len(labels), k))


@dataclass(frozen=True)
class Shards:
    """Label skew: samples sorted by label are cut into k * s equal shards, and each client gets s of them.

    A shard straddles two classes only where one ends inside it. Sizes differ by what padding the shards held.

    Args:
        per_client: Shards s >= 1 of each client.

    References:
        McMahan et al. 2017, https://arxiv.org/abs/1602.05629
    """

    per_client: int

    def __post_init__(self) -> None:
        checks.integer("per_client", self.per_client, least=1, remedy="say per_client=2")

    def split(self, labels: np.ndarray, groups: Groups, clients: int | None, seed: int) -> list[np.ndarray]:
        """See `Partition.split`."""
        from flwr_datasets.partitioner import ShardPartitioner

        k = _check_clients(clients)
        shards = k * self.per_client
        if shards > MAX_ROWS:
            raise BadInput(f"{k} clients x {self.per_client} shards = {shards} shards, limit {MAX_ROWS}: lower either")
        partitioner = ShardPartitioner(
            num_partitions=k, partition_by="label", num_shards_per_partition=self.per_client, shuffle=False, seed=seed
        )
        return _deal(partitioner, k, labels, seed, rows=max(1, math.ceil(len(labels) / shards)) * shards)


@dataclass(frozen=True)
class Quantity(Dirichlet):
    """Size skew: client sizes follow Dirichlet(alpha, ..., alpha), labels stay mixed.

    Args:
        alpha: Concentration in (0, 1e9]; towards 0 one client holds everything, towards infinity this is `Iid`.
    """

    def split(self, labels: np.ndarray, groups: Groups, clients: int | None, seed: int) -> list[np.ndarray]:
        """See `Partition.split`."""
        return super().split(np.zeros_like(labels), groups, clients, seed)  # as if all were of one class


@dataclass(frozen=True)
class Natural:
    """Each natural id (a domain, a vendor, a writer) is one client; clients are in the ids' sorted order.

    Args:
        by: Name of the group that holds the ids; None where the dataset has only one.
    """

    by: str | None = None

    def split(self, labels: np.ndarray, groups: Groups, clients: int | None, seed: int) -> list[np.ndarray]:
        """See `Partition.split`; `clients` must be None or the number of ids."""
        from flwr_datasets.partitioner import NaturalIdPartitioner

        if not groups:
            raise BadInput("this dataset has no natural ids to partition by: use iid, dirichlet or shards")
        by = self.by or (next(iter(groups)) if len(groups) == 1 else "")
        if by not in groups:
            raise unknown("group", by, groups)
        # Codes instead of ids: np.unique sorts them, and ids of any type become plain integers.
        ids, codes = np.unique(groups[by], return_inverse=True)
        if clients is not None and clients != len(ids):
            raise BadInput(
                f"clients={clients}, but {by!r} has {len(ids)} natural ids, one client each: "
                f"say clients=null or clients={len(ids)}"
            )
        return _deal(NaturalIdPartitioner("label"), len(ids), codes, seed, rows=len(labels))


def _deal(partitioner: Partitioner, k: int, labels: np.ndarray, seed: int, rows: int) -> list[np.ndarray]:
    """Run a partitioner on the shuffled table, padded to `rows` rows; return the k clients' real rows."""
    from datasets import Dataset as Table

    n = _check_samples(labels)
    row = np.full(rows, -1, dtype=np.int64)
    row[:n] = np.arange(n)
    if rows > n:
        pad = rows - n
        labels = np.concatenate([labels, np.sort(labels)[((np.arange(pad) + 0.5) * n / pad).astype(np.int64)]])
    # Flower Datasets deals contiguous rows of a class; only a shuffled table makes that a random choice.
    order = _shuffle(rows, seed)
    partitioner.dataset = Table.from_dict({"row": row[order], "label": np.asarray(labels)[order]})
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        # The first call deals, with a progress bar and a deprecated sort: neither is the user's to act on.
        warnings.simplefilter("ignore", FutureWarning)
        partitioner.load_partition(0)
    dealt = [np.asarray(partitioner.load_partition(i)["row"][:], dtype=np.int64) for i in range(k)]
    parts = [np.sort(part[part >= 0]) for part in dealt]
    held = np.bincount(np.concatenate(parts), minlength=n)
    if len(held) != n or (held != 1).any():
        raise RuntimeError(f"{type(partitioner).__name__} lost or doubled {int((held != 1).sum())} of {n} samples")
    return parts


def _shuffle(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(checks.integer("seed", seed, least=0)).permutation(rows)


def _check_samples(labels: np.ndarray) -> int:
    if len(labels) == 0:
        raise BadInput("0 samples cannot be dealt: give at least 1")
    return len(labels)


def _check_clients(clients: int | None) -> int:
    if clients is None:
        raise BadInput("clients=null: only a natural partition knows its own number of clients; say clients=100")
    return checks.integer("clients", clients, 1, MAX_ROWS, remedy="say clients=100")
