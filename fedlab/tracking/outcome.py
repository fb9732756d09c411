"""What a run found, under the keys of `results.json`: in one place, so that every run has all of them.

A key that a run has nothing for is null, and never left out: tools read them.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PHASES = ("setup", "features", "train", "aggregate", "evaluate", "total")


def peak_rss_bytes() -> int:
    """Peak memory of this process so far; workers of another process count their own."""
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@dataclass(frozen=True)
class Outcome:
    """The result of one method.

    Attributes:
        strategy: Strategy that ran, by its class.
        seed, clients, rounds: Seed of the run, number of its clients and of its rounds.
        accuracy: Accuracy on the test split, after the last round.
        metrics: Metrics of all other kinds, by name.
        statistics_sha256, head_sha256: Digests: equal digests, equal bits.
        bytes_up_per_client, bytes_down_per_client: Bytes sent and received by a client, on average, over all rounds.
        seconds: Seconds by phase; see `PHASES`.
        peak_rss_bytes: Peak memory of the process that ran the server.
        privacy: Privacy budget (epsilon, delta and unit); null without one.
        faults: Faults that were tolerated.
    """

    strategy: str
    seed: int
    clients: int
    rounds: int
    accuracy: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    statistics_sha256: str | None = None
    head_sha256: str | None = None
    bytes_up_per_client: float | None = None
    bytes_down_per_client: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_rss_bytes: int = field(default_factory=peak_rss_bytes)
    privacy: Mapping[str, Any] | None = None
    faults: Mapping[str, Any] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """Return the keys and values as `results.json` has them."""
        return asdict(self) | {"seconds": {**dict.fromkeys(PHASES), **self.seconds}}
