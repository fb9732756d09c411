"""What the federations of the tests learn: small, quick to load, and a client can be held in the middle of its round.

A node that is started with the variable `GATE` waits in its training for as long as the file it names is there,
and says with a file beside it that it has come so far.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clients.afl import AFL
from fedlab.data.dataset import Dataset, Split

GATE = "FEDLAB_TEST_GATE"


@dataclass(frozen=True)
class Rows:
    """Three Gaussian classes in eight dimensions."""

    samples: int = 240

    def load(self) -> Dataset:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, self.samples)
        inputs = (labels[:, None] + rng.normal(size=(self.samples, 8))).clip(-1, 1).astype(np.float32)
        cut = self.samples * 3 // 4
        train, test = Split(inputs[:cut], labels[:cut]), Split(inputs[cut:], labels[cut:])
        return Dataset("rows", "tabular", train, test, ("a", "b", "c"))


@dataclass(frozen=True)
class Stripes:
    """Client i has every k-th row."""

    def split(self, labels: np.ndarray, groups: Mapping[str, np.ndarray], clients: int, seed: int) -> list[np.ndarray]:
        return [np.arange(client, len(labels), clients) for client in range(clients)]


class Gated(AFL):
    """AFL whose clients can be held."""

    def train(self, *words: Any) -> Any:
        if gate := os.environ.get(GATE):
            Path(f"{gate}.reached").touch()
            while Path(gate).exists():
                time.sleep(0.05)
        return super().train(*words)


def config(clients: int, **changes: Any) -> dict[str, Any]:
    return {
        "source": {"_target_": "tests.deployment.gated.Rows"},
        "partition": {"_target_": "tests.deployment.gated.Stripes"},
        "backbone": {"_target_": "fedlab.features.backbones.Identity"},
        "clients": clients,
        "seed": 0,
        "device": "cpu",
        "tolerate": 0.0,
        "timeout": None,
        "connect_timeout": 60.0,
        "strategy": {"_target_": "strategies.afl.AFL", "ridge": 1.0},
        "client": {"_target_": "tests.deployment.gated.Gated"},
        "rounds": 1,
        **changes,
    }
