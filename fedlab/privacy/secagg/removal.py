"""Leaving a secure sum: the part of those who leave, taken from the very uploads that were added.

    sum_{k in S} x_k = sum_{k in S} (y_k - PRG(b_k) - masks of the lost) - the masks that S shares with those who stay

Nobody sends statistics again. Both ends of every edge between S and the rest send the seed of its mask, or, where
one is gone, the other alone; the digests that both gave before anything was uploaded say whether it is the one.
So what is subtracted cannot be anything else than what was added.

What the server learns: the sum over S, which the difference of the two sums shows anyway. Masks within S stay,
so S must hang together in the graph, or the sum over each of its pieces shows; and so must the rest. A client
that leaves alone shows its statistics, which no protocol can hide: it has to be said that this is meant.

The protocol is `fedlab.privacy.secagg.server`; S is who leaves, x statistics, y uploads, b self masks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from fedlab.errors import BadInput
from fedlab.privacy.secagg.client import PAIR, Answer, expect
from fedlab.privacy.secagg.graph import in_one_piece
from fedlab.privacy.secagg.key_agreement import KEY_BYTES, digest
from fedlab.privacy.secagg.masks import add_mask
from fedlab.privacy.secagg.server import SecureSum


@dataclass
class Removal:
    """One removal: who leaves, and the seeds that were heard.

    Args:
        leaving: Clients S that leave, rising.
        seeds: Seeds by (client in S, client that stays).
        heard: Clients that have answered.
    """

    leaving: tuple[int, ...]
    seeds: dict[tuple[int, int], bytes] = field(default_factory=dict)
    heard: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, total: SecureSum, leaving: Iterable[int], alone: bool = False) -> Removal:
        """Return the removal of these clients from a sum.

        Args:
            total: Sum whose `result` is known.
            leaving: Clients that leave.
            alone: Whether a group that shares no masks with the others who leave, a single client among them, may
                show its own sum.

        Raises:
            BadInput: A client is not in the sum, has left it, or its upload was not kept; or more would show than the
                sum over those who leave and the sum over the rest.
        """
        gone = sorted(leaving)
        if not gone or len(set(gone)) < len(gone):
            raise BadInput(f"clients {gone} are to leave: name at least one, and each once")
        for who in gone:
            if who in total.left:
                raise BadInput(f"client {who} has left the sum before: it cannot leave twice")
            if who not in total.uploaded:
                raise BadInput(f"client {who} is not in the sum: there is nothing of it to take out")
            if who not in total.parts:
                raise BadInput(f"client {who}'s upload was not kept: name it in `keep` before the sum")
        if not alone and (len(gone) == 1 or not in_one_piece(total.graph, gone)):
            raise BadInput(
                f"of the clients {gone} each group that shares masks would show its own sum, and one that leaves "
                "alone its statistics: let others leave with it, or say alone=true"
            )
        rest = staying(total, gone)
        if len(rest) < total.terms.minimum:
            raise BadInput(
                f"{len(rest)} of {total.terms.clients} clients would stay, {total.terms.minimum} must: raise dropout"
            )
        if not in_one_piece(total.graph, rest):
            raise BadInput("those who stay would be groups whose sums show: sum anew without the others")
        return cls(tuple(gone))

    def asked(self, total: SecureSum) -> list[int]:
        """Return who is asked: those who leave, and their neighbours who stay."""
        return sorted({who for edge in self._edges(total) for who in edge})

    def question(self, total: SecureSum) -> Answer:
        """Return what they are told."""
        return {"leaving": np.array(self.leaving, np.uint64), **total.ask_reveal()}

    def take(self, total: SecureSum, who: int, answer: Answer) -> bool:
        """Hear a client's seeds; False if it was heard before.

        Raises:
            BadInput: A seed is not the one of the masks that were added.
        """
        edges = [edge for edge in self._edges(total) if who in edge]
        if not edges:
            raise BadInput(f"client {who} was not asked: it shares no mask with those who leave")
        if who in self.heard:
            return False
        seeds = expect(answer, "seeds", np.uint8, (len(edges), KEY_BYTES))
        for edge, seed in zip(edges, seeds, strict=True):
            other = edge[0] if edge[1] == who else edge[1]
            if digest(total.session, seed.tobytes()) != total.digest(who, other, PAIR):
                raise BadInput(f"its seed with client {other} is not that of the mask: it was tampered with")
        self.seeds |= {edge: seed.tobytes() for edge, seed in zip(edges, seeds, strict=True)}
        self.heard.append(who)
        return True

    def result(self, total: SecureSum) -> Int64[np.ndarray, " l"]:
        """Return the sum over those who leave, and note in `total` that they have.

        Raises:
            BadInput: Neither end of an edge has answered; nobody has left.
        """
        edges = self._edges(total)
        if lacking := [edge for edge in edges if edge not in self.seeds]:
            k, j = lacking[0]
            raise BadInput(
                f"neither client {k}, which leaves, nor client {j} sent the seed of their mask ({len(lacking)} such "
                "pairs): ask them again"
            )
        part = np.sum([total.parts[k] for k in self.leaving], axis=0)
        for k, j in edges:
            add_mask(part, self.seeds[k, j], -1 if k < j else 1)
            if j in total.parts:  # should it leave later, this mask is no longer to be taken off
                add_mask(total.parts[j], self.seeds[k, j], -1 if j < k else 1)
        total.left = (*total.left, *self.leaving)
        return part.view(np.int64)

    def _edges(self, total: SecureSum) -> list[tuple[int, int]]:
        """Return the edges between those who leave and those who stay, in the order of the clients."""
        rest = set(staying(total, self.leaving))
        return [(k, j) for k in self.leaving for j in total.graph[k] if j in rest]


def staying(total: SecureSum, leaving: Iterable[int]) -> list[int]:
    """Return who would be left of a sum."""
    gone = {*total.left, *leaving}
    return sorted(who for who in total.uploaded if who not in gone)
