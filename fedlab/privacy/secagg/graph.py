"""Who shares masks with whom: everybody where clients are few, O(log n) neighbours where they are many.

    n P(B >= t) <= 2^-40,  B ~ Hyp(n - 1, colluding n, k)         nobody's neighbours can unmask it
    n P(A <  t) <= 2^-20,  A ~ Hyp(n - 1, (1 - dropout) n, k)     everybody's neighbours can help to

The degree k is the smallest even number for which some threshold t satisfies both. The graph is a ring of the
clients in random order, each joined to the k/2 next on either side.

Bell et al., Secure single-server aggregation with (poly)logarithmic overhead, CCS 2020,
https://doi.org/10.1145/3372297.3417885. n clients, k neighbours, t shares that give a secret.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import floor

import numpy as np
from scipy.stats import hypergeom

from fedlab import checks
from fedlab.errors import BadInput

FEW = 32
"""Up to so many clients a graph would save nothing."""
FEWEST = 3
"""Of two clients each knows the other's part of the sum."""
SECRECY, RELIABILITY = 2.0**-40, 2.0**-20
Graph = Mapping[int, tuple[int, ...]]
"""Each client's neighbours, rising."""


@dataclass(frozen=True)
class Terms:
    """What everybody agrees on before a sum; each derives it by itself, so that nobody need be believed.

    Args:
        clients: Number of clients n that are asked.
        dropout: Share of them that may be lost on the way, in [0, 1): a sum of fewer than the others is refused.
        colluding: Share of them that may join forces with the server, in [0, 1).

    Raises:
        BadInput: A share is out of range, there are fewer than three clients, or no threshold satisfies both shares.
    """

    clients: int
    dropout: float = 0.3
    colluding: float = 0.1

    def __post_init__(self) -> None:
        for name in ("dropout", "colluding"):
            checks.number(name, getattr(self, name), least=0, below=1, remedy="a share of the clients, e.g. 0.3")
        if self.clients < FEWEST:
            raise BadInput(f"a secure sum of {self.clients} clients hides nobody: {FEWEST} are needed")
        self.threshold  # noqa: B018 - refuses here what no threshold satisfies

    @property
    def minimum(self) -> int:
        """Number of clients that a sum must hold."""
        return self.clients - floor(self.dropout * self.clients + 1e-9)

    @property
    def degree(self) -> int:
        """Number of neighbours k."""
        return _fitting(self.clients, self.dropout, self.colluding)[0]

    @property
    def threshold(self) -> int:
        """Number of shares t that give a secret."""
        return _fitting(self.clients, self.dropout, self.colluding)[1]

    def graph(self, members: Collection[int], seed: int) -> Graph:
        """Return who is whose neighbour; the seed is the server's, drawn after the members were known."""
        ids, half = np.array(sorted(members), np.uint64), self.degree // 2
        n = len(ids)
        if self.degree >= n - 1:
            everyone = tuple(ids.tolist())
            return {one: tuple(other for other in everyone if other != one) for one in everyone}
        ring = np.random.default_rng(seed).permutation(ids)
        steps = np.r_[-half:0, 1 : half + 1]
        around = np.sort(ring[(np.arange(n)[:, None] + steps) % n])
        return dict(zip(ring.tolist(), map(tuple, around.tolist()), strict=True))


def in_one_piece(graph: Graph, members: Collection[int]) -> bool:
    """Return whether members and the edges between them are connected; a sum over each piece would show."""
    left = set(members)
    if not left:
        return True
    waiting = [left.pop()]
    while waiting:
        near = left.intersection(graph[waiting.pop()])
        left -= near
        waiting.extend(near)
    return not left


@lru_cache(maxsize=16)
def _fitting(n: int, dropout: float, colluding: float) -> tuple[int, int]:
    """Return degree and threshold; of the thresholds the largest."""
    lost, bad = floor(dropout * n + 1e-9), floor(colluding * n + 1e-9)
    for k in range(2, n - 1, 2) if n > FEW else ():
        t = np.arange(2, k + 1)
        secret = n * hypergeom.sf(t - 1, n - 1, bad, k) <= SECRECY
        reliable = n * hypergeom.cdf(t - 1, n - 1, n - 1 - lost, k) <= RELIABILITY
        if (fits := t[secret & reliable]).size:
            return k, int(fits[-1])
    threshold = n - 1 - lost  # everybody is everybody's neighbour
    if threshold <= max(bad, 1):
        raise BadInput(
            f"dropout={dropout} of {n} clients leaves {threshold} that can help to unmask a lost one, and "
            f"colluding={colluding} lets {bad} do so on their own: lower one of them, or ask more clients"
        )
    return n - 1, threshold
