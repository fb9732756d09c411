"""A world: a federation whose samples have passed the frozen backbone, once per process.

The server, the clients of one process and the centralised yardstick share it; a worker elsewhere builds the
same one from the same description.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from fedlab.data.federation import Federation, federate
from fedlab.features.batches import Progress
from fedlab.features.cache import extract_dataset
from fedlab.features.encoders import torch_device

if TYPE_CHECKING:
    from fedlab.data.partition import Partition


@dataclass(frozen=True, eq=False)
class World:
    """Features of everyone's samples, and who holds which.

    Attributes
    ----------
    train, test
        Backbone features, (n, d0) and (m, d0).
    train_labels, test_labels
        (n,) and (m,).
    """

    federation: Federation
    train: Float32[Tensor, "n d0"]
    train_labels: Int64[Tensor, " n"]
    test: Float32[Tensor, "m d0"]
    test_labels: Int64[Tensor, " m"]

    @property
    def num_classes(self) -> int:
        """The number of classes c."""
        return self.federation.dataset.num_classes

    def client(self, partition_id: int) -> tuple[Tensor, Tensor]:
        """Return the features (n_k, d0) and labels (n_k,) of one client."""
        rows = torch.from_numpy(self.federation.parts[partition_id]).to(self.train.device)
        return self.train[rows], self.train_labels[rows]

    def clients(self, partition_ids: Sequence[int]) -> tuple[Tensor, Tensor, list[int]]:
        """Return the features and labels of several clients, one after the other, and how many are whose."""
        parts = [self.federation.parts[i] for i in partition_ids]
        rows = torch.from_numpy(np.concatenate(parts)).to(self.train.device)
        return self.train[rows], self.train_labels[rows], [len(part) for part in parts]


def build(
    source: Any,
    partition: Partition,
    backbone: Any,
    clients: int | None,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
) -> World:
    """Return the world that these choices describe; the same choices give the same object.

    Raises
    ------
    BadInput
        A choice cannot be used: see the data sources, partitions and backbones.
    """
    torch_device(device)
    federation = federate(source, partition, clients, seed)
    return _features(federation, backbone, device, _Unkeyed(progress))


class _Unkeyed:
    """A value that plays no part in a cache's key."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unkeyed)


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
