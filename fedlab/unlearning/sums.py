"""The sums of a federation as a strategy kept them in a folder: who is in them, and which head they come to.

    S(phase) = sum_k s_k(phase)        W = memory.add(S(1)).add(S(2))... .solution()

Nothing here changes them: `fedlab.unlearning.exact` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.audit.deletion import DeletionCertificate, check_chain
from fedlab.engine.aggregation.closed_form import Phases
from fedlab.engine.messages.records import digest_of
from fedlab.engine.persistence.statistics_store import Kept, Part, State
from fedlab.errors import BadInput
from fedlab.stats import WithMoments
from fedlab.stats.serialization.packed_total import unpack_total

Totals = Mapping[int, Any]
"""Phase to statistics of whatever kind."""


@dataclass(frozen=True)
class Check:
    """A training without the deleted, to hold a deletion against.

    Attributes:
        source: Word for what it sums.
        retrain: Function that sums it.
    """

    source: str
    retrain: Callable[[State], Totals]


class KeptSums:
    """What can be asked of the sums in a folder.

    Args:
        folder: Folder that a strategy's `keep_clients` named.
        memory: Memory as the strategy began with it; AFL's is `Joint(ridge)`.
        first: Node of client 0: in a simulation clients are counted from 0 and nodes are not.
    """

    def __init__(self, folder: Path, memory: Phases, first: int = 0):
        self.kept, self._memory, self._first = Kept(folder), memory, first

    @property
    def certificates(self) -> list[DeletionCertificate]:
        """Of all changes, in their order.

        Raises:
            BadInput: They do not follow from each other, or do not end with the head.
        """
        return self.certificates_of(self.kept.state())

    def parts(self, client: int) -> tuple[Part, ...]:
        """Return what is in the sums of a client.

        Raises:
            BadInput: Nothing: it is unknown, or was deleted before.
        """
        return self.parts_of(client, self.kept.state())

    def forgotten(self, client: int) -> tuple[int, ...]:
        """Return the rows of a client that were deleted one by one."""
        return self.kept.state().forgotten.get(self.node(client)) or ()

    def head(self) -> np.ndarray:
        """Return the present head, (d, c)."""
        state = self.kept.state()
        if state.head is None:
            raise BadInput(f"{self.kept.folder} holds no head: nobody had a sample")
        return self.kept.arrays(state.head)["weight"]

    def verify(self, check: Check | None = None) -> DeletionCertificate:
        """Return the last certificate, held against a training of everyone who is left.

        Args:
            check: Training to hold it against; None sums what was kept of everyone.

        Raises:
            BadInput: There is no certificate.
        """
        state = self.kept.state()
        certificates = self.certificates_of(state)
        if not certificates:
            raise BadInput(f"{self.kept.folder}: nothing was deleted yet, so there is nothing to verify")
        weight = torch.from_numpy(self.head())
        return self.checked(certificates[-1], weight, state, check or Check("kept statistics", self.summed))

    def summed(self, state: State) -> Totals:
        """Return the sums of what was kept of everyone who is left: training without those who are not."""
        by_phase: dict[int, list[Part]] = {}
        for node in sorted(state.clients):
            for part in state.clients[node]:
                by_phase.setdefault(part.phase, []).append(part)
        return {phase: unpack_total(self.read(by_phase[phase])) for phase in sorted(by_phase)}

    def solved(self, totals: Totals) -> Tensor:
        """Return the head (d, c) of the totals of all phases."""
        memory = reduce(lambda so_far, phase: so_far.add(totals[phase]), sorted(totals), self._memory)
        return memory.solution().weight

    def checked(
        self, certificate: DeletionCertificate, weight: Tensor, state: State, check: Check
    ) -> DeletionCertificate:
        """Return a certificate of the head `weight` with what a training without the deleted comes to."""
        totals = check.retrain(state)
        again = self.solved(totals)
        digest = digest_of({"weight": again.numpy()})
        return certificate.checked(check.source, joined(totals).sha256, digest, weight, again)

    def certificates_of(self, state: State) -> list[DeletionCertificate]:
        """Return the certificates of a state, which follow from each other and end with its head."""
        certificates = [DeletionCertificate.of(values) for values in state.certificates]
        check_chain(certificates, self.head_digest(state))
        return certificates

    def head_digest(self, state: State) -> str:
        """Return the digest of the head of a state."""
        return digest_of(self.kept.arrays(state.head) if state.head else {})

    def read(self, parts: Iterable[Part]) -> Iterator[Mapping[str, np.ndarray]]:
        """Yield the packed statistics of some parts."""
        return (self.kept.arrays(part.stored) for part in parts)

    def node(self, client: int) -> int:
        """Return the node of a client."""
        return client + self._first

    def parts_of(self, client: int, state: State) -> tuple[Part, ...]:
        """Return what is in the sums of a client in this state."""
        node = self.node(client)
        if node in state.clients:
            return state.clients[node]
        if node in state.forgotten:
            raise BadInput(f"client {client} was deleted before: there is nothing of it left in the sums")
        there = sorted(node - self._first for node in state.clients)
        which = f", {there[0]} to {there[-1]}" if there else ""
        raise BadInput(f"client {client} was never added: the sums are of {len(there)} clients{which}")


def joined(totals: Totals) -> Any:
    """Return the sum of the totals of all phases."""
    return reduce(add, (totals[phase] for phase in sorted(totals)))


def exact(statistics: Any) -> bool:
    """Whether statistics of whatever kind are sums of integers."""
    return (statistics.sums if isinstance(statistics, WithMoments) else statistics).scale is not None
