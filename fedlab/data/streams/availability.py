"""Availability: who is there at which step, and so which tasks a client meets when.

    present(k, s) -> client k meets every task t <= s - lag_k that it has not met before

A client that lags is always the same few tasks behind; one that joins late, or was away, meets its backlog when it
is there again. At the last step everybody is there, so by the end each client has met every task once.

k clients, T tasks, T + lag steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlab import checks
from fedlab.randomness import rng_for


@dataclass(frozen=True)
class Availability:
    """Clients at different phases; 0, 0, 0 is everybody in step.

    Args:
        lag: Largest number of tasks that a client is behind, each drawn by the seed from 0.
        late: Share of the clients that join after the first step, each at a step drawn by the seed.
        away: Share of the clients that are away once, from a step drawn by the seed.
        spell: Steps that they are away; the end of the stream may cut it short.
    """

    lag: int = 0
    late: float = 0.0
    away: float = 0.0
    spell: int = 1

    def __post_init__(self) -> None:
        checks.integer("lag", self.lag, least=0)
        checks.share("late", self.late)
        checks.share("away", self.away)
        checks.integer("spell", self.spell, least=1)

    @property
    def in_step(self) -> bool:
        """Whether everybody is always there."""
        return not (self.lag or self.late or self.away)

    def calendar(self, clients: int, tasks: int, seed: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """Return per step, per client, the tasks that it meets, ascending; `ClientStream` takes it.

        Raises:
            BadInput: Fewer than 1 client or 1 task, or a seed below 0.
        """
        checks.integer("clients", clients, least=1)
        checks.integer("tasks", tasks, least=1)
        rng = rng_for(seed, "attendance")
        steps = tasks + self.lag
        lags = rng.integers(0, self.lag + 1, size=clients)
        joins, leaves = (np.zeros(clients, np.int64), np.full(clients, steps))
        if steps > 1:
            some = rng.permutation(clients)[: round(self.late * clients)]
            joins[some] = rng.integers(1, steps, size=len(some))
            some = rng.permutation(clients)[: round(self.away * clients)]
            leaves[some] = rng.integers(0, steps, size=len(some))
        known: dict[tuple[int, int], tuple[int, ...]] = {}  # a million clients share a few tuples
        met, days = np.zeros(clients, np.int64), []
        for step in range(steps):
            there = (step >= joins) & ~((step >= leaves) & (step < leaves + self.spell))
            if step == steps - 1:
                there[:] = True
            until = np.where(there, np.clip(step - lags + 1, met, tasks), met)
            pairs = zip(met.tolist(), until.tolist(), strict=True)
            days.append(tuple(known.setdefault(pair, tuple(range(*pair))) for pair in pairs))
            met = until
        return tuple(days)
