"""Exact unlearning: a client leaves a sum as it came, by one subtraction and one solve.

    W' = solve(S - s_k)        S = sum_j s_j        the head of a training that never saw client k

In exact mode with the same bits, in float64 to 1e-9; after any number of deletions and additions in any order, for
a sum forgets in which order it was formed. No server has to take part and no client has to answer: what a strategy
has kept (`keep_clients`) is enough, so this is no Flower strategy but what follows one. The change itself is a
transaction on the folder (`fedlab.engine.persistence.statistics_store`): all is checked before anything is written.

What a memory does with its sums decides what is kept of them. `Joint`, `Tempered` and `Filled` (AFL, ACIL, GACL,
GKEAL, AIR, AEF-OCL) solve one total, whatever came when. `DualStream` (DS-AL) does not: the residue of each phase
depends on those before it, so each phase has a total and the heads of all phases are solved again. AIR in two
rounds weighs every sample by everybody's counts: without a client all others weigh anew, so nothing can be
subtracted from its sum, and it is to be trained again.

Ginart et al., Making AI Forget You, NeurIPS 2019, https://arxiv.org/abs/1907.05012 (deletion as equality with a
training that never had the data). k, j clients, s_k all that client k sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType

import numpy as np

from fedlab.audit.deletion import TOLERANCE, DeletionCertificate
from fedlab.engine.messages.records import digest_of
from fedlab.engine.persistence.statistics_store import Part, State, digest_of_file
from fedlab.errors import BadInput
from fedlab.stats import pack
from fedlab.stats.serialization.packed_total import unpack_total
from fedlab.unlearning.sums import Check, KeptSums, Totals, exact, joined

Resent = Mapping[int, Sequence[Mapping[str, np.ndarray]]]
"""Client to what it sends again, part by part."""
NOTHING: Resent = MappingProxyType({})


class ExactUnlearning(KeptSums):
    """The sums of a federation in a folder, and what changes them: see `KeptSums`."""

    def delete(
        self, clients: Sequence[int], resent: Resent = NOTHING, check: Check | None = None
    ) -> DeletionCertificate:
        """Delete all that is known of some clients, and return what changed.

        Args:
            clients: Clients that leave.
            resent: Packed statistics, part by part, of clients that send them again, where those that were kept are
                lost.
            check: Training without them; its head must be the one that the deletion leaves.

        Raises:
            BadInput: A client is unknown, was deleted before or is named twice; a file is damaged; what was sent
                again is not what was sent first; nothing would be left; or the retrained head is another. Nothing has
                changed.
        """
        with self._transaction() as state:
            if len(set(clients)) < len(clients) or not clients:
                raise BadInput(f"clients {list(clients)}: name each client once that is to be deleted")
            gone: dict[int, list[Mapping[str, np.ndarray]]] = {}
            for client in clients:
                parts = self.parts_of(client, state)
                kept = _same(client, parts, resent[client]) if client in resent else self.read(parts)
                for part, arrays in zip(parts, kept, strict=True):
                    gone.setdefault(part.phase, []).append(arrays)
            nodes = {self.node(client): None for client in clients}
            left = {node: parts for node, parts in state.clients.items() if node not in nodes}
            after = replace(state, clients=left, forgotten={**state.forgotten, **nodes})
            sums = {phase: unpack_total(parts) for phase, parts in gone.items()}
            return self._change("deletion", clients, None, sums, state, after, check)

    def delete_samples(
        self, client: int, rows: Sequence[int], observed: Totals, check: Check | None = None
    ) -> DeletionCertificate:
        """Delete some samples of a client, and return what changed.

        Args:
            client: Client that had them.
            rows: Rows of the training split that they are: by them a sample is not deleted twice.
            observed: Statistics of them, in each phase that some of them are in.
            check: Training without them, as for `delete`.

        Raises:
            BadInput: As for `delete`; and where a row was deleted before or is named twice, or the statistics were
                never part of the client's. Nothing has changed.
        """
        with self._transaction() as state:
            parts, node = self.parts_of(client, state), self.node(client)
            before = state.forgotten.get(node) or ()
            _check_rows(client, rows, before)
            if len(rows) != (number := sum(statistics.count for statistics in observed.values())):
                raise BadInput(f"{len(rows)} rows are named, and the statistics are of {number} samples")
            new = [part for part in parts if part.phase not in observed]
            remain = sum(unpack_total(self.read([part])).count for part in new)
            for phase, gone in observed.items():
                own = [part for part in parts if part.phase == phase]
                if not own:
                    raise BadInput(f"client {client} sent nothing in phase {phase}: its samples were never added")
                left = unpack_total(self.read(own)) - gone
                remain += left.count
                rounds = sorted({number for part in own for number in part.rounds})
                new.append(Part(self.kept.store("part", pack(left)), phase, tuple(rounds)))
            clients = {**state.clients, node: tuple(new)}
            forgotten = {**state.forgotten, node: tuple(sorted({*before, *rows}))}
            if not remain:
                clients.pop(node)
                forgotten[node] = None
            after = replace(state, clients=clients, forgotten=forgotten)
            return self._change("deletion", [client], tuple(sorted(rows)), observed, state, after, check)

    def add(self, client: int, observed: Totals, check: Check | None = None) -> DeletionCertificate:
        """Add a client that comes back, or a new one, and return what changed.

        Args:
            client: Client that comes.
            observed: Statistics of it, in each phase.
            check: Training without them, as for `delete`.

        Raises:
            BadInput: It is in the sums already, or its statistics do not fit them. Nothing has changed.
        """
        with self._transaction() as state:
            node = self.node(client)
            if node in state.clients:
                raise BadInput(f"client {client} is in the sums already: delete it before it is added anew")
            parts = tuple(
                Part(self.kept.store("part", pack(statistics)), phase, (phase or 1,))
                for phase, statistics in observed.items()
            )
            forgotten = {other: rows for other, rows in state.forgotten.items() if other != node}
            after = replace(state, clients={**state.clients, node: parts}, forgotten=forgotten)
            return self._change("addition", [client], None, observed, state, after, check)

    # -- how ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[State]:
        state = self.kept.state()
        try:
            yield state
        except BaseException:
            # What was written does not count, and is not left behind; unless the new state is on the disk already.
            self.kept.sweep(self.kept.state())
            raise

    def _change(
        self,
        kind: str,
        clients: Sequence[int],
        rows: tuple[int, ...] | None,
        sums: Totals,
        state: State,
        after: State,
        check: Check | None,
    ) -> DeletionCertificate:
        former = self.certificates_of(state)
        totals = {phase: unpack_total([self.kept.arrays(stored)]) for phase, stored in state.totals.items()}
        before = former[-1].statistics_after if former else joined(totals).sha256
        for phase, part in sums.items():
            if kind == "deletion":
                totals[phase] = totals[phase] - part
            else:
                totals[phase] = totals[phase] + part if phase in totals else part
        left = joined(totals)
        if not left.count:
            raise BadInput("no sample would be left, and there is no head of none: remove the run directory instead")
        weight = self.solved(totals)
        changed = joined(sums)
        whole = exact(left)
        certificate = DeletionCertificate(
            kind,
            datetime.now(UTC).isoformat(timespec="seconds"),
            tuple(clients),
            rows,
            changed.count,
            "exact" if whole else "float64",
            0.0 if whole else TOLERANCE,
            before,
            left.sha256,
            changed.sha256,
            self.head_digest(state),
            digest_of({"weight": weight.numpy()}),
        )
        if check:
            certificate = self.checked(certificate, weight, after, check)
            if certificate.retrained and not certificate.retrained.equal:
                raise BadInput(
                    f"a training from {check.source} without {certificate.lines()[0][1]} has another head "
                    f"(difference {certificate.retrained.difference:.1e}, allowed {certificate.tolerance:g}): "
                    "nothing was deleted. In float64 an ill-conditioned system does this: raise the ridge"
                )
        stored = {phase: self.kept.store("total", pack(totals[phase])) for phase in sums}
        head = self.kept.store("head", {"weight": weight.numpy()})
        certificates = (*state.certificates, certificate.values())
        self.kept.commit(replace(after, totals={**state.totals, **stored}, head=head, certificates=certificates))
        return certificate


def _same(
    client: int, parts: Sequence[Part], resent: Sequence[Mapping[str, np.ndarray]]
) -> Sequence[Mapping[str, np.ndarray]]:
    if [digest_of_file(arrays) for arrays in resent] != [part.stored.digest for part in parts]:
        raise BadInput(
            f"what client {client} sends again is not what it sent first: its samples or its software changed, "
            "or some of its samples were deleted meanwhile. Restore the file that was kept"
        )
    return resent


def _check_rows(client: int, rows: Sequence[int], before: Sequence[int]) -> None:
    if not rows:
        raise BadInput(f"no sample of client {client} is named: give at least one row")
    if twice := [row for row, times in Counter(rows).items() if times > 1]:
        raise BadInput(f"row {min(twice)} of client {client} is named twice: a sample is deleted once")
    if again := sorted({*rows} & {*before}):
        raise BadInput(f"row {again[0]} of client {client} was deleted before: there is nothing of it left")
