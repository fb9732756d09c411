"""A client of a secure sum: four answers, each a function of the question and of what it remembers.

    keys      public keys
    shares    to each neighbour, sealed: a share of b, a share of the secret masking key; digests of both
    upload    y = x + PRG(b) + sum over neighbours j of  +PRG(s_j) if j comes after it, -PRG(s_j) if before
    reveal    of each neighbour one share: of b if the neighbour is in the sum, of its masking key if not

All its secrets follow from 32 random bytes, so that asking it the same again changes nothing. It refuses to
answer a step twice in different ways: two sets of survivors would make it give both shares of a neighbour, and
with them the neighbour's statistics.

See `fedlab.privacy.secagg.server` for the protocol and its threat model. x statistics, b self mask, s_j pair masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from fedlab.errors import BadInput
from fedlab.privacy.secagg.graph import Terms
from fedlab.privacy.secagg.key_agreement import (
    DIGEST_BYTES,
    KEY_BYTES,
    TAG_BYTES,
    Secrets,
    agree,
    derive,
    digest,
    link_of,
    pair_seed,
    seal,
    unseal,
)
from fedlab.privacy.secagg.masks import add_mask
from fedlab.privacy.secagg.shamir import SHARE_BYTES, split

Answer = dict[str, np.ndarray]
"""What leaves a client, or is sent to one: named arrays."""
Memory = Mapping[str, bytes]
"""What a client remembers from step to step."""
SEED_SHARE, KEY_SHARE, PAIR = 0, 1, 2
"""Columns of the digests: of b's share, of the masking key's share, of the pair's seed."""
SEALED_BYTES = 2 * SHARE_BYTES + TAG_BYTES


@dataclass(frozen=True)
class Participant:
    """One client in one aggregation.

    Args:
        who: Id, as the server and the others speak of it; in [0, 2^64).
        terms: Terms that it agrees to.
    """

    who: int
    terms: Terms

    def keys(self, session: bytes, memory: Memory, draw: Callable[[], bytes]) -> tuple[Answer, Memory]:
        """Return public keys, (2, 32) uint8, for a new session; `draw` returns 32 random bytes."""
        if memory.get("session") != session:
            memory = {"session": session, "root": draw()}
        return {"publics": _bytes(b"".join(Secrets(memory["root"]).publics), KEY_BYTES)}, memory

    def shares(self, question: Answer, session: bytes, memory: Memory) -> tuple[Answer, Memory]:
        """Return what each neighbour is to hold, sealed.

        Args:
            question: Arrays 'neighbours' (k,) uint64, rising; 'publics' (k, 2, 32) uint8, theirs.

        Raises:
            BadInput: There are too few neighbours, they are not distinct, or another set was named before.
        """
        root = self._known(memory, session, "root")
        neighbours = expect(question, "neighbours", np.uint64)
        k, t = len(neighbours), self.terms.threshold
        publics = expect(question, "publics", np.uint8, (k, 2, KEY_BYTES))
        if (neighbours[1:] <= neighbours[:-1]).any():
            raise BadInput(f"neighbours {neighbours.tolist()[:5]}... do not rise: name each once")
        if k < t or self.who in neighbours:
            raise BadInput(f"{k} neighbours that are not itself are there, {t} must be: it shares nothing")
        record = {"neighbours": neighbours.tobytes(), "publics": publics.tobytes()}
        _same(memory, record, "other neighbours")

        own, me = Secrets(root), self.who.to_bytes(8)
        if not {bytes(public) for pair in publics for public in pair}.isdisjoint(own.publics):
            raise BadInput("a neighbour has this client's own public key: it was tampered with")
        seeds, masks = (
            split(secret, t, range(1, k + 1), derive(root, b"coefficients", name))
            for secret, name in ((own.self_mask, b"self mask"), (own.masks, b"masking key"))
        )
        sealed, digests, pairs = [], [], []
        for i, other in enumerate(neighbours.tolist()):
            key, about = self._envelope(own, session, other, publics[i])
            sealed.append(seal(key, me, seeds[i] + masks[i], about))
            pairs.append(pair_seed(own.masks, bytes(publics[i, 1]), session, self.who, other))
            digests += [digest(session, part) for part in (seeds[i], masks[i], pairs[i])]
        answer = {
            "sealed": _bytes(b"".join(sealed), len(sealed[0])),
            "digests": _bytes(b"".join(digests), DIGEST_BYTES).reshape(k, 3, DIGEST_BYTES),
            "commitment": _bytes(digest(session, own.self_mask), DIGEST_BYTES)[0],
        }
        return answer, {**memory, **record, "seeds": b"".join(pairs)}

    def upload(
        self, question: Answer, vector: Int64[np.ndarray, " l"], session: bytes, memory: Memory
    ) -> tuple[Answer, Memory]:
        """Return the masked vector, (L,) uint64, and its digest.

        Args:
            question: Arrays 'senders' (m,) uint64, the neighbours that shared; 'sealed' (m, .) uint8, what they did.
            vector: Integers that are added; the same length for everybody.

        Raises:
            BadInput: A share or a key was tampered with, too few neighbours shared, or others were named before.
        """
        seeds = self._known(memory, session, "seeds")
        senders = expect(question, "senders", np.uint64)
        sealed = expect(question, "sealed", np.uint8, (len(senders), SEALED_BYTES))
        places = self._places(memory, senders)
        t = self.terms.threshold
        if len(senders) < t:
            raise BadInput(f"{len(senders)} neighbours hold a share of this client, {t} must: no upload")
        record = {"senders": senders.tobytes(), "sealed": digest(sealed.tobytes())}
        _same(memory, record, "other shares")

        own, shares = Secrets(memory["root"]), []
        publics = np.frombuffer(memory["publics"], np.uint8).reshape(-1, 2, KEY_BYTES)
        total = vector.view(np.uint64).copy()
        add_mask(total, own.self_mask)
        for j, place, row in zip(senders.tolist(), places.tolist(), sealed, strict=True):
            key, about = self._envelope(own, session, j, publics[place])
            share = unseal(key, j.to_bytes(8), row.tobytes(), about)
            if share is None:
                raise BadInput(f"what client {j} shared was tampered with, or its keys: nothing is uploaded")
            shares.append(share)
            add_mask(total, seeds[place * KEY_BYTES : (place + 1) * KEY_BYTES], 1 if self.who < j else -1)
        # Two uploads under the same masks would show how their statistics differ.
        record["uploaded"] = upload_digest(total)
        _same(memory, record, "other statistics")
        answer = {"masked": total, "digest": _bytes(record["uploaded"], DIGEST_BYTES)[0]}
        return answer, {**memory, **record, "shares": b"".join(shares)}

    def reveal(self, question: Answer, session: bytes, memory: Memory) -> tuple[Answer, Memory]:
        """Return one share of each neighbour that shared, (m, 33) uint8, in the order in which they were named.

        Args:
            question: Arrays 'survivors' (u,) uint64, rising: whose upload is in the sum.

        Raises:
            BadInput: The survivors are too few, are not what was said before, or lack this client.
        """
        shares = self._known(memory, session, "shares")
        survivors, senders, record = self._survivors(question, memory)
        kinds = np.where(np.isin(senders, survivors), SEED_SHARE, KEY_SHARE)
        pairs = np.frombuffer(shares, np.uint8).reshape(len(senders), 2, SHARE_BYTES)
        return {"shares": pairs[np.arange(len(senders)), kinds]}, {**memory, **record}

    def part(self, question: Answer, session: bytes, memory: Memory) -> tuple[Answer, Memory]:
        """Return the seeds shared with neighbours on the other side of a deletion, (m, 32) uint8.

        Args:
            question: Arrays 'leaving' (s,) uint64, rising: who leaves the sum; 'survivors' as `reveal` has them, for
                a client that was away then.

        Raises:
            BadInput: Somebody leaves who is not in the sum or left before, or too few neighbours would stay.
        """
        seeds = np.frombuffer(self._known(memory, session, "seeds"), np.uint8).reshape(-1, KEY_BYTES)
        self._known(memory, session, "uploaded")
        survivors, senders, record = self._survivors(question, memory)
        leaving, left = expect(question, "leaving", np.uint64), np.frombuffer(memory.get("left", b""), np.uint64)
        if memory.get("leaving") == leaving.tobytes():  # asked again
            left = left[~np.isin(left, leaving)]
        if not len(leaving) or not np.isin(leaving, survivors).all() or np.isin(leaving, left).any():
            raise BadInput("somebody is to leave who is not in the sum, or has left it before")
        here = senders[np.isin(senders, survivors) & ~np.isin(senders, left)]
        crossing = here[np.isin(here, leaving) != (self.who in leaving)]
        staying = len(here) - len(crossing)
        if self.who not in leaving and staying < self.terms.threshold:
            raise BadInput(
                f"{staying} neighbours would stay with this client, {self.terms.threshold} must so that it stays "
                "hidden: sum anew without those who leave"
            )
        record |= {"leaving": leaving.tobytes(), "left": np.union1d(left, leaving).tobytes()}
        return {"seeds": seeds[self._places(memory, crossing)]}, {**memory, **record}

    # -- inside ------------------------------------------------------------------------------------------------

    def _envelope(self, own: Secrets, session: bytes, other: int, publics: np.ndarray) -> tuple[bytes, bytes]:
        """Return the key of what two clients send each other, and what both must know alike: all their public keys."""
        theirs = bytes(publics[0]), bytes(publics[1])
        first, second = (own.publics, theirs) if self.who < other else (theirs, own.publics)
        about = link_of(session, self.who, other) + b"".join((*first, *second))
        return agree(own.seals, theirs[0], b"seal", about), about

    def _known(self, memory: Memory, session: bytes, what: str) -> bytes:
        if memory.get("session") != session or what not in memory:
            raise BadInput(f"client {self.who} took no part in the step before: it is out of this sum")
        return memory[what]

    def _places(self, memory: Memory, some: np.ndarray) -> np.ndarray:
        neighbours = np.frombuffer(memory["neighbours"], np.uint64)
        if (some[1:] <= some[:-1]).any() or not np.isin(some, neighbours).all():
            raise BadInput(f"clients {some.tolist()[:5]}... are named twice, or are no neighbours")
        return np.searchsorted(neighbours, some)

    def _survivors(self, question: Answer, memory: Memory) -> tuple[np.ndarray, np.ndarray, dict[str, bytes]]:
        """Return who is in the sum, which neighbours shared, and what to remember of it."""
        survivors, senders = expect(question, "survivors", np.uint64), np.frombuffer(memory["senders"], np.uint64)
        if (survivors[1:] <= survivors[:-1]).any() or self.who not in survivors:
            raise BadInput("the survivors are named twice, or lack this client: it reveals nothing")
        if not self.terms.minimum <= len(survivors) <= self.terms.clients:
            raise BadInput(
                f"{len(survivors)} of {self.terms.clients} clients are in the sum, {self.terms.minimum} must be: "
                "it reveals nothing"
            )
        neighbours = np.frombuffer(memory["neighbours"], np.uint64)
        if np.isin(np.setdiff1d(neighbours, senders), survivors).any():
            raise BadInput("a neighbour is said to be in the sum that never shared: it reveals nothing")
        near, t = int(np.isin(senders, survivors).sum()), self.terms.threshold
        if near < t:
            raise BadInput(f"{near} of its neighbours are in the sum, {t} must be: it reveals nothing")
        record = {"survivors": survivors.tobytes()}
        _same(memory, record, "another set of survivors")
        return survivors, senders, record


def upload_digest(masked: np.ndarray) -> bytes:
    """Return what tells a masked vector from one that was damaged on its way."""
    return digest(masked.astype("<u8", copy=False).tobytes())


def _same(memory: Memory, record: Mapping[str, bytes], what: str) -> None:
    if any(memory.get(name, value) != value for name, value in record.items()):
        raise BadInput(f"{what} were named before in this aggregation: it answers a step in one way only")


def _bytes(content: bytes, width: int) -> np.ndarray:
    return np.frombuffer(content, np.uint8).reshape(-1, width)


def expect(answer: Answer, name: str, kind: type, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return an array of an answer, or of a question, refusing what does not look like it; None is any vector."""
    array = answer.get(name)
    if array is None:
        raise BadInput(f"its message holds {sorted(answer)}: {name} is missing")
    if array.dtype != kind or (array.shape != shape if shape is not None else array.ndim != 1):
        expected = "a vector" if shape is None else f"shape {list(shape)}"
        raise BadInput(f"its {name} is {array.dtype}{list(array.shape)}: give {np.dtype(kind)}, {expected}")
    return array
