"""Clients and a server that talk in one process: what the tests of the protocol play with."""

from dataclasses import dataclass, field

import numpy as np

from fedlab.privacy.secagg.client import Participant
from fedlab.privacy.secagg.graph import Terms
from fedlab.privacy.secagg.server import SecureSum
from fedlab.stats import total_of
from fedlab.stats.serialization.integers import Layout, integers, statistics_of
from tests.draws import FIXED, statistics

D, C = 6, 3
SESSION = b"session of tests"
STEPS = ("keys", "shares", "upload", "reveal")


@dataclass
class Federation:
    """Clients 10, 20, ... with their statistics and memories, and the server."""

    clients: int
    dropout: float = 0.3
    keep: tuple[int, ...] = ()
    entropy: int = 0
    memories: dict[int, dict] = field(default_factory=dict)
    sent: dict[tuple[str, int], dict] = field(default_factory=dict)

    def __post_init__(self):
        self.terms = Terms(self.clients, self.dropout)
        self.ids = [10 * (k + 1) for k in range(self.clients)]
        self.held = {who: statistics(who % 7 * 3, D, C, who, FIXED) for who in self.ids}
        self.server = SecureSum(self.terms, SESSION, 5, tuple(self.keep))
        self.rng = np.random.default_rng(self.entropy)

    def vector(self, who):
        return integers(self.held[who], self.clients)

    def answer(self, step, who, asked=None):
        """Let one client answer, and remember."""
        one, memory = Participant(who, self.terms), self.memories.get(who, {})
        if step == "keys":
            answer, memory = one.keys(SESSION, memory, lambda: self.rng.bytes(32))
        elif step == "upload":
            answer, memory = one.upload(asked, self.vector(who), SESSION, memory)
        else:
            method = {"shares": one.shares, "reveal": one.reveal, "leave": one.part}[step]
            answer, memory = method(asked, SESSION, memory)
        self.memories[who] = memory
        self.sent[step, who] = answer
        return answer

    def asked(self, step):
        """What each is asked who is still there."""
        if step == "keys":
            return dict.fromkeys(self.ids)
        if step == "reveal":
            return dict.fromkeys(self.server.uploaded, self.server.ask_reveal())
        return self.server.ask_shares() if step == "shares" else self.server.ask_upload()

    def take(self, step, who, answer):
        return getattr(self.server, f"take_{step}")(who, answer)

    def run(self, until="reveal", lost=(0, 0, 0, 0)):
        """Run to the end of a step; at each some are lost, the last ones in a shuffled order."""
        for step, gone in zip(STEPS[: STEPS.index(until) + 1], lost, strict=False):
            questions = self.asked(step)
            there = np.random.default_rng([7, STEPS.index(step)]).permutation(list(questions))
            for who in there[: len(there) - gone].tolist():
                assert self.take(step, who, self.answer(step, who, questions[who]))
        return self

    def total(self):
        layout = Layout.of(self.held[10])
        return statistics_of(self.server.result(), layout, len(self.server.uploaded))

    def plain(self, some=None):
        return total_of(self.held[who] for who in sorted(some or self.server.uploaded))


def flipped(array, bit=0):
    changed = array.copy()
    changed.reshape(-1).view(np.uint8)[bit] ^= 1
    return changed
