"""A sum of which the server sees nothing but the sum, whoever drops out on the way.

    y_k = x_k + PRG(b_k) + sum_{j > k} PRG(s_kj) - sum_{j < k} PRG(s_kj)   mod 2^64     over neighbours j
    sum_k x_k = sum_k y_k - sum_k PRG(b_k) - the masks that survivors share with clients that were lost

Pair masks cancel. What does not cancel is taken off with secrets that the neighbours hold in shares, any t of k:
of a survivor its b, of a lost client its masking key, never both of one client.

| step | a client is told | it answers |
|---|---|---|
| keys | a session | two public keys |
| shares | its neighbours and their keys | for each neighbour, sealed: a share of b, one of the key; digests |
| upload | who of them shared, and what | its masked vector |
| reveal | who is in the sum | of each neighbour one of the two shares |

Threat model. The server follows the protocol and is curious about what it sees, with up to t - 1 colluding
clients in any neighbourhood (`graph.Terms`). It learns the sum over the survivors, and nothing else about
anyone. Clients that are lost at any step cost nothing but their own part. A share, a key or a seed that was
changed is refused with the name of who sent it; a client that answers twice counts once.

Not covered: a server that lies about who survived, or plays clients itself, for nobody signs keys here (clients
refuse a set below the minimum, without themselves, or other than the one they were told first); clients that
upload what is not theirs to add; what the sum itself tells about its parts, for which there is noise.

Bonawitz et al., Practical secure aggregation for privacy-preserving machine learning, CCS 2017,
https://doi.org/10.1145/3133956.3133982; the graph: Bell et al., CCS 2020, https://doi.org/10.1145/3372297.3417885.
x statistics, y uploads, b self masks, s pair masks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from fedlab.errors import BadInput
from fedlab.privacy.secagg.client import KEY_SHARE, PAIR, SEALED_BYTES, SEED_SHARE, Answer, expect, upload_digest
from fedlab.privacy.secagg.graph import Terms, in_one_piece
from fedlab.privacy.secagg.key_agreement import DIGEST_BYTES, KEY_BYTES, digest, pair_seed, public_of
from fedlab.privacy.secagg.masks import add_mask
from fedlab.privacy.secagg.shamir import SHARE_BYTES, combine

STEPS = ("keys", "shares", "upload", "reveal", "leave")
"""In the order of the rounds; the last only where clients leave."""


@dataclass
class SecureSum:
    """The server of one aggregation: what it has heard, step by step.

    `take_*` hears a client and leaves everything as it was when it refuses; `ask_*` closes the step before and
    says what to ask next.

    Args:
        terms: Terms that everybody agrees on.
        session: Name of 16 bytes that no other aggregation has.
        seed: Seed of the graph.
        keep: Clients whose uploads are kept, so that they can leave the sum (`fedlab.privacy.secagg.removal`).
    """

    terms: Terms
    session: bytes
    seed: int
    keep: tuple[int, ...] = ()
    publics: dict[int, np.ndarray] = field(default_factory=dict)
    graph: dict[int, tuple[int, ...]] = field(default_factory=dict)
    sealed: dict[int, np.ndarray] = field(default_factory=dict)
    digests: dict[int, np.ndarray] = field(default_factory=dict)
    commitments: dict[int, bytes] = field(default_factory=dict)
    total: np.ndarray | None = None
    uploaded: list[int] = field(default_factory=list)
    kept: dict[int, np.ndarray] = field(default_factory=dict)
    revealed: dict[int, np.ndarray] = field(default_factory=dict)
    parts: dict[int, np.ndarray] = field(default_factory=dict)
    left: tuple[int, ...] = ()

    # -- keys --------------------------------------------------------------------------------------------------

    def take_keys(self, who: int, answer: Answer) -> bool:
        """Hear a client's public keys; False if it was heard before."""
        if who in self.publics:
            return False
        self.publics[who] = expect(answer, "publics", np.uint8, (2, KEY_BYTES))
        return True

    def ask_shares(self) -> dict[int, Answer]:
        """Return what each client that sent keys is told: its neighbours."""
        self._check_enough(self.publics, "sent keys")
        self.graph = dict(self.terms.graph(self.publics, self.seed))
        return {
            who: {"neighbours": np.array(near, np.uint64), "publics": np.stack([self.publics[other] for other in near])}
            for who, near in self.graph.items()
        }

    # -- shares ------------------------------------------------------------------------------------------------

    def take_shares(self, who: int, answer: Answer) -> bool:
        """Hear what a client shares with its neighbours; False if it was heard before.

        Raises:
            BadInput: It has another form, or the client and a neighbour do not agree on the seed of their masks.
        """
        if not self._is_new(who, self.graph, self.sealed):
            return False
        near = self.graph[who]
        sealed = expect(answer, "sealed", np.uint8, (len(near), SEALED_BYTES))
        digests = expect(answer, "digests", np.uint8, (len(near), 3, DIGEST_BYTES))
        commitment = expect(answer, "commitment", np.uint8, (DIGEST_BYTES,))
        for place, other in enumerate(near):
            if other in self.digests and digests[place, PAIR].tobytes() != self.digest(other, who, PAIR):
                raise BadInput(f"it and client {other} have different masks: a key was tampered with")
        self.sealed[who], self.digests[who] = sealed, digests
        self.commitments[who] = commitment.tobytes()
        return True

    def ask_upload(self) -> dict[int, Answer]:
        """Return what each client that shared is told: what its neighbours shared with it."""
        self._check_enough(self.sealed, "shared their secrets")
        questions = {}
        for who in self.sealed:
            senders = self._senders(who)
            rows = [self.sealed[other][self._place(other, who)] for other in senders]
            questions[who] = {
                "senders": np.array(senders, np.uint64),
                "sealed": np.array(rows, np.uint8).reshape(len(rows), SEALED_BYTES),
            }
        return questions

    # -- upload ------------------------------------------------------------------------------------------------

    def take_upload(self, who: int, answer: Answer) -> bool:
        """Add a client's masked vector; False if it is in the sum already.

        Raises:
            BadInput: It has another length than the others', or was damaged on its way.
        """
        if not self._is_new(who, self.sealed, self.uploaded):
            return False
        length = None if self.total is None else (len(self.total),)
        masked = expect(answer, "masked", np.uint64, length)
        if expect(answer, "digest", np.uint8, (DIGEST_BYTES,)).tobytes() != upload_digest(masked):
            raise BadInput("its masked statistics do not have the digest it sent: they were tampered with")
        self.total = masked.copy() if self.total is None else np.add(self.total, masked, out=self.total)
        self.uploaded.append(who)
        if who in self.keep:
            self.kept[who] = masked.copy()
        return True

    def ask_reveal(self) -> Answer:
        """Return what every client in the sum is told: who is.

        Raises:
            BadInput: They are too few, or in pieces whose sums would show one by one.
        """
        self._check_enough(self.uploaded, "are in the sum")
        if not in_one_piece(self.graph, self.uploaded):
            raise BadInput(
                f"the {len(self.uploaded)} clients that are left share masks in separate groups, and each group's "
                "sum would show: raise dropout, which gives everybody more neighbours"
            )
        return {"survivors": np.array(sorted(self.uploaded), np.uint64)}

    # -- reveal ------------------------------------------------------------------------------------------------

    def take_reveal(self, who: int, answer: Answer) -> bool:
        """Hear the shares that a client holds of its neighbours; False if it was heard before.

        Raises:
            BadInput: A share is not the one that the neighbour gave out.
        """
        if not self._is_new(who, self.uploaded, self.revealed):
            return False
        senders, survivors = self._senders(who), set(self.uploaded)
        shares = expect(answer, "shares", np.uint8, (len(senders), SHARE_BYTES))
        for other, share in zip(senders, shares, strict=True):
            kind = SEED_SHARE if other in survivors else KEY_SHARE
            if digest(self.session, share.tobytes()) != self.digest(other, who, kind):
                raise BadInput(f"its share of client {other} is not what it was given: it was tampered with")
        self.revealed[who] = shares
        return True

    def result(self) -> Int64[np.ndarray, " l"]:
        """Return the sum over the clients that uploaded.

        Raises:
            BadInput: Too few neighbours of a client answered; there is no sum.
        """
        assert self.total is not None
        survivors, total = set(self.uploaded), self.total.copy()
        parts = {who: masked.copy() for who, masked in self.kept.items()}

        def unmask(who: int, seed: bytes, sign: int) -> None:
            add_mask(total, seed, sign)
            if who in parts:
                add_mask(parts[who], seed, sign)

        shares = self._shares()
        lost = [who for who in self.sealed if who not in survivors]
        secrets = {who: self._combine(who, shares.get(who, {})) for who in [*self.uploaded, *lost]}
        for who in self.uploaded:
            if digest(self.session, secrets[who]) != self.commitments[who]:
                raise BadInput(f"client {who}'s self mask is not what it committed to: it was tampered with")
            unmask(who, secrets[who], -1)
        for who in lost:
            if public_of(secrets[who]) != self.publics[who][1].tobytes():
                raise BadInput(f"the key of client {who} does not fit its public one: it was tampered with")
            for other in survivors.intersection(self.graph[who]):
                seed = pair_seed(secrets[who], self.publics[other][1].tobytes(), self.session, who, other)
                unmask(other, seed, -1 if other < who else 1)
        self.parts = parts
        return total.view(np.int64)

    def _shares(self) -> dict[int, dict[int, bytes]]:
        """Return the shares of every client, by their points."""
        shares: dict[int, dict[int, bytes]] = {}
        for who, rows in self.revealed.items():
            for other, row in zip(self._senders(who), rows, strict=True):
                shares.setdefault(other, {})[self._place(other, who) + 1] = row.tobytes()
        return shares

    def _combine(self, who: int, shares: dict[int, bytes]) -> bytes:
        if len(shares) < self.terms.threshold:
            raise BadInput(
                f"{len(shares)} of client {who}'s {len(self.graph[who])} neighbours revealed their share, "
                f"{self.terms.threshold} must: there is no sum; {_REMEDY}"
            )
        return combine(shares, self.terms.threshold)

    # -- who -------------------------------------------------------------------------------------------------

    def _senders(self, who: int) -> list[int]:
        return [other for other in self.graph[who] if other in self.sealed]

    def digest(self, of: int, who: int, kind: int) -> bytes:
        """Return the digest that client `of` gave of what it shares with client `who`."""
        return self.digests[of][self._place(of, who), kind].tobytes()

    def _place(self, of: int, who: int) -> int:
        """Return at which place `who` stands among the neighbours of `of`."""
        return self.graph[of].index(who)

    def _check_enough(self, some: Collection[int], what: str) -> None:
        if len(some) < self.terms.minimum:
            raise BadInput(
                f"{len(some)} of {self.terms.clients} clients {what}, {self.terms.minimum} must: there is no sum; "
                f"{_REMEDY}"
            )

    def _is_new(self, who: int, asked: Collection[int], heard: Collection[int]) -> bool:
        if who not in asked:
            raise BadInput(f"client {who} was not asked: it took no part in the step before")
        return who not in heard


_REMEDY = "ask them again, or raise dropout, the share of the clients that may be lost"
