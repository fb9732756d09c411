"""What was released about whom: a composition for everyone, and of each client what is said of it beyond that.

    composition(client) = everyone + own(client)          epsilon = max over clients, at one delta

Clients hold different samples, so what is said of one costs the others nothing, and whoever has been told most about
says what holds for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heapreplace

from fedlab.privacy.accounting.composition import FINEST, Composition, together
from fedlab.privacy.accounting.release import Release


@dataclass(frozen=True)
class Accounts:
    """The compositions of all clients.

    Attributes:
        everyone: Composition of releases that name no clients.
        own: Compositions, by client, of those that name it.
    """

    everyone: Composition = field(default_factory=Composition)
    own: Mapping[int, Composition] = field(default_factory=dict)

    def plus(self, releases: Sequence[Release]) -> Accounts:
        """Return the accounts with these releases entered."""
        everyone = together([release for release in releases if release.clients is None])
        own = dict(self.own)
        sums: dict[tuple[str, Composition], Composition] = {}  # many clients are at the same point
        for release in releases:
            cost = Composition.of(release)
            for client in release.clients or ():
                now = own.get(client, Composition())
                if (release.id, now) not in sums:
                    sums[release.id, now] = now + cost
                own[client] = sums[release.id, now]
        return Accounts(self.everyone + everyone, own)

    def of(self, client: int | None) -> Composition:
        """Return what was said about a client; about one that nothing names, for None."""
        return self.everyone if client is None else self.everyone + self.own.get(client, Composition())

    def groups(self, delta: float) -> dict[Composition, list[int]]:
        """Return the clients by composition, the largest first; those that nothing names are under `everyone`."""
        groups: dict[Composition, list[int]] = {self.everyone: []}
        for client, own in sorted(self.own.items()):
            groups.setdefault(self.everyone + own, []).append(client)
        return dict(sorted(groups.items(), key=lambda item: -item[0].bound(delta)))

    def most(self, delta: float) -> float:
        """Return the largest epsilon: whoever may have most is looked at more closely, until nobody may."""
        compositions = list(self.groups(delta))
        heap = [(-each.bound(delta), place, 0) for place, each in enumerate(compositions)]
        heapify(heap)
        while heap[0][2] < FINEST:
            _, place, level = heap[0]
            heapreplace(heap, (-compositions[place].bound(delta, level + 1), place, level + 1))
        return -heap[0][0]

    def past(self, cap: float, delta: float, releases: Sequence[Release]) -> tuple[int | None, float] | None:
        """Return the first client, of those whom the last `releases` were about, that is past a cap, and its epsilon.

        None is for a client that nothing names; nobody being past it, the answer is None.
        """
        named: set[int] = set()
        for release in releases:
            named.update(self.own if release.clients is None else release.clients)
        first: dict[Composition, int | None] = {}
        if any(release.clients is None for release in releases):
            first[self.everyone] = None
        for client in sorted(named):  # equal ones are computed once
            first.setdefault(self.of(client), client)
        for composition, client in first.items():
            # Level by level: far from the cap the cheapest bound says enough.
            if all(composition.bound(delta, level) > cap for level in range(FINEST + 1)):
                return client, composition.epsilon(delta)
        return None
