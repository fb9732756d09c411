"""What every strategy that promises privacy repeats: its ledger, its noise, and whether the data are a simulation's.

Nothing is released that no ledger counts. A grid that does not say it is simulated is real: seeded noise, which anyone
who knows the seed can take off, is refused there, and clients are known by their nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

from fedlab.engine.aggregation.strategy import Messages
from fedlab.engine.simulation.host import partition_of
from fedlab.privacy.accounting.ledger import Ledger, required
from fedlab.privacy.accounting.release import Release, id_of
from fedlab.privacy.mechanisms.noise_source import check_entropy, check_place, noise, seeded_note


def is_simulated(grid: Grid) -> bool:
    """Whether a grid says that its nodes are simulated: one that says nothing is a deployment's."""
    return getattr(grid, "simulated", False) is True  # Flower's Grid has no such attribute


class Private:
    """The part of a private strategy that is the same for all of them; it stands first among the bases.

    Args:
        seed: Seed of the noise, where it is to be repeated.
        entropy: Source of the noise: 'seeded', or 'os' for noise that nobody can draw again.

    Attributes:
        ledger: Ledger where releases are entered before they are made; set by whoever runs the strategy.
    """

    ledger: Ledger | None = None

    def __init__(self, seed: int, entropy: str):
        self.seed, self.entropy = seed, check_entropy(entropy)

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Messages:
        """Return what the strategy behind this one asks, where noise may be drawn as it is."""
        self.check_place(grid)
        return super().configure_train(server_round, arrays, config, grid)  # pyright: ignore[reportAttributeAccessIssue]

    def check_place(self, grid: Grid) -> None:
        """Refuse noise that can be drawn again where the data are not the simulation's own."""
        check_place(self.entropy, is_simulated(grid))

    def charge(self, *releases: Release) -> None:
        """Enter releases; a release of the same id is the same bits, and counts once.

        Raises:
            BadInput: The budget is spent, or nobody keeps a ledger. Nothing was entered.
        """
        required(self.ledger).charge(*releases)

    def draw_id(self, method: str, *about: Any) -> str:
        """Return the id of one release: equal where the same bits would be drawn again."""
        return id_of(self.entropy, method, self.seed, *about)

    def noise(self, purpose: str) -> np.random.Generator:
        """Return the generator of one draw of noise: of anything else, other noise."""
        return noise(self.entropy, self.seed, purpose)

    def charged(self, grid: Grid, nodes: Iterable[int]) -> tuple[int, ...]:
        """Return who is charged where these nodes are asked: clients of a simulation by their partitions, rising."""
        simulated = is_simulated(grid)
        return tuple(sorted(partition_of(node) if simulated else node for node in nodes))

    def privacy_notes(self, *more: str | None) -> list[str]:
        """Return what a reader must know of seeded noise, and the other notes that there are."""
        return [note for note in (seeded_note(self.entropy), *more) if note]
