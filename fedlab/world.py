"""A world: a federation whose samples have passed the frozen backbone, once per process.

The server, the clients of one process and the centralised yardstick share it; a worker elsewhere builds the
same one from the same description.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from fedlab.data.federation import Federation, federate
from fedlab.data.streams.availability import Availability
from fedlab.data.streams.client_stream import ClientStream, client_stream
from fedlab.errors import BadInput
from fedlab.features.batches import Progress
from fedlab.features.cache import extract_dataset
from fedlab.features.encoders import torch_device

if TYPE_CHECKING:
    from fedlab.data.partition import Partition
    from fedlab.data.streams.tasks import Stream

PARTS = ("source", "partition", "backbone", "stream", "availability")
"""What a config describes of a world; `build` takes them by these names, and the last two may be missing."""


@dataclass(frozen=True, eq=False)
class World:
    """Features of everyone's samples, and who holds which.

    Attributes:
        train, test: Backbone features, (n, d0) and (m, d0).
        train_labels, test_labels: Classes, (n,) and (m,).
        client_stream: Client stream: who meets which samples when; None where everyone has all of theirs from the
            start.
    """

    federation: Federation
    train: Float32[Tensor, "n d0"]
    train_labels: Int64[Tensor, " n"]
    test: Float32[Tensor, "m d0"]
    test_labels: Int64[Tensor, " m"]
    client_stream: ClientStream | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes c."""
        return self.federation.dataset.num_classes

    def client(self, partition_id: int, step: int = 0, memory: int | None = 0) -> tuple[Tensor, Tensor]:
        """Return the features (n_k, d0) and labels (n_k,) that one client has.

        Args:
            partition_id: Client, by its id.
            step: Step of the client stream: what it meets then, and what it remembers.
            memory: Samples of the steps before that it remembers; None for all of them.
        """
        return self.clients([partition_id], step, memory)[:2]

    def clients(
        self, partition_ids: Sequence[int], step: int = 0, memory: int | None = 0, missed: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor, list[int]]:
        """Return what several clients have, one after the other, and how many samples are whose.

        Args:
            partition_ids, step, memory: Clients, step and memory, as for `client`.
            missed: Steps before whose samples they have all the same.

        Returns:
            tuple: Features (n, d0), labels (n,) and the clients' sizes, which add up to n.
        """
        parts = [self._rows(i, step, memory, missed) for i in partition_ids]
        rows = torch.from_numpy(np.concatenate(parts)).to(self.train.device)
        return self.train[rows], self.train_labels[rows], [len(part) for part in parts]

    def steps(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the features (n_s, d0) and labels (n_s,) that all clients together meet at each step.

        Without a client stream, everything at once.
        """
        if self.client_stream is None:
            yield self.train, self.train_labels
            return
        for met in self.client_stream.everyone:
            rows = torch.from_numpy(met).to(self.train.device)
            yield self.train[rows], self.train_labels[rows]

    def _rows(self, partition_id: int, step: int, memory: int | None, missed: Sequence[int]) -> np.ndarray:
        if self.client_stream is None:
            return self.federation.parts[partition_id]
        parts = [self.client_stream.met(partition_id, s) for s in (*missed, step)]
        if memory != 0:
            parts.insert(0, self.client_stream.remembered(partition_id, step, memory))
        return np.concatenate(parts)


def build(
    source: Any,
    partition: Partition,
    backbone: Any,
    clients: int | None,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
    stream: Stream | None = None,
    availability: Availability | None = None,
) -> World:
    """Return the world that these choices describe; the same choices give the same object.

    Raises:
        BadInput: A choice cannot be used: see the data sources, partitions, backbones and streams; or clients are to
            come and go where nothing is a stream.
    """
    torch_device(device)
    if stream is None and not (availability or Availability()).in_step:
        raise BadInput(f"{availability} says who is there when, and there is no stream: choose one, e.g. stream=online")
    federation = federate(source, partition, clients, seed)
    everyone = _features(federation, backbone, device, _Unkeyed(progress))
    return everyone if stream is None else _streamed(everyone, stream, seed, availability)


@dataclass(frozen=True)
class _Unkeyed:
    """A value that plays no part in a cache's key."""

    value: Any = field(compare=False)


@lru_cache(maxsize=4)
def _streamed(everyone: World, stream: Stream, seed: int, availability: Availability | None) -> World:
    return replace(everyone, client_stream=client_stream(everyone.federation, stream, seed, availability))


@lru_cache(maxsize=2)
def _features(federation: Federation, backbone: Any, device: str, progress: _Unkeyed) -> World:
    dataset = federation.dataset
    train, test = extract_dataset(dataset, backbone, device=device, progress=progress.value)
    return World(
        federation,
        torch.from_numpy(train).to(device),
        torch.from_numpy(dataset.train.labels).to(device),
        torch.from_numpy(test).to(device),
        torch.from_numpy(dataset.test.labels).to(device),
    )
