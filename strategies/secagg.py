"""Secure aggregation around any closed-form strategy: it is handed the sum, as the reply of all who are in it.

    round 1  keys      round 2  shares      round 3  upload      round 4  reveal  ->  sum  ->  the inner strategy
                                                                 round 5  leave   ->  sum without those who leave

The inner strategy's head is the one it would have had of the survivors' plain statistics, bit for bit, and no
one has seen theirs. A client that fails in a round is out for the rest of the aggregation; what it uploaded
before that stays in the sum.

Bonawitz et al., CCS 2017, https://doi.org/10.1145/3133956.3133982; see `fedlab.privacy.secagg.server`, which also says
what this does not protect from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType

from fedlab.engine.aggregation.closed_form import ClosedForm
from fedlab.engine.aggregation.private import is_simulated
from fedlab.engine.aggregation.protocol import Arrays, Protocol, Round, Step
from fedlab.engine.aggregation.replies import SecureReply
from fedlab.engine.messages.identity import SERVER_NODE
from fedlab.engine.messages.partial_sums import as_partial_sum, packed_content
from fedlab.engine.messages.records import content_bytes
from fedlab.errors import BadInput
from fedlab.privacy.accounting.ledger import Ledger
from fedlab.privacy.mechanisms.noise_source import check_entropy
from fedlab.privacy.secagg.client import Answer
from fedlab.privacy.secagg.graph import Terms
from fedlab.privacy.secagg.key_agreement import fresh
from fedlab.privacy.secagg.removal import Departure
from fedlab.privacy.secagg.server import SecureSum, expect
from fedlab.stats.serialization.integers import Layout, statistics_of

_KEPT = ("sum", "asked", "nodes", "departure", "layout", "_vector")


class _Step(Step["SecureAggregation"]):
    """A step of the sum, whose clients are known by their numbers."""

    at_once = True

    @property
    def sum(self) -> SecureSum:
        """The sum, once it has begun."""
        assert self.server.sum is not None
        return self.server.sum

    def nodes(self, questions: Mapping[int, Arrays]) -> dict[int, Arrays]:
        """Return what each client is asked, by its node."""
        return {self.server.nodes[who]: question for who, question in questions.items()}

    def who(self, node: int) -> int:
        """Return which client a node is."""
        return next(who for who, one in self.server.nodes.items() if one == node)


class Keys(_Step):
    """Everyone's public keys."""

    name = "keys"

    def ask(self, now: Round) -> None:
        """Begin a sum that no other has anything to do with."""
        self.server.begin(now)

    def take_in(self, node: int, answer: Answer) -> None:
        """Hear who a node is, and its keys."""
        who, nodes = int(expect(answer, "who", np.uint64, (1,))[0]), self.server.nodes
        if nodes.get(who, node) != node or who >= self.sum.terms.clients:
            raise BadInput(
                f"it says it is client {who} of {self.sum.terms.clients}, and so does another node"
            )
        self.sum.take_keys(who, answer)
        nodes[who] = node


class Shares(_Step):
    """What each client lets its neighbours hold of its secrets."""

    name = "shares"
    tells_missed = True

    def ask(self, now: Round) -> Mapping[int, Arrays]:
        """Tell each client its neighbours."""
        return self.nodes(self.sum.ask_shares())

    def take_in(self, node: int, answer: Answer) -> None:
        """Hear what it shares."""
        self.sum.take_shares(self.who(node), answer)


class Upload(_Step):
    """The masked statistics."""

    name = "upload"
    tells_missed = True

    def ask(self, now: Round) -> Mapping[int, Arrays]:
        """Tell each client what its neighbours shared with it."""
        return self.nodes(self.sum.ask_upload())

    def charge(self, now: Round, nodes: Sequence[int]) -> None:
        """Let the inner strategy enter a release, or refuse one, before anything is uploaded."""
        self.server.inner.configure_train(now.number, now.arrays, now.config, now.grid)

    def take_in(self, node: int, answer: Answer) -> None:
        """Add a masked vector that is laid out as the others."""
        layout = Layout.read(answer.get("layout", np.zeros(0)))
        if self.server.layout not in (None, layout):
            raise BadInput(f"its statistics are laid out as {layout}, the others' as {self.server.layout}")
        if len(answer.get("masked", ())) != layout.length:
            raise BadInput(f"its masked statistics are not the {layout.length} integers of {layout}")
        self.sum.take_upload(self.who(node), answer)
        self.server.layout = layout


class Reveal(_Step):
    """The shares by which masks come off the sum."""

    name = "reveal"

    def ask(self, now: Round) -> Mapping[int, Arrays]:
        """Tell everyone in the sum who is."""
        return self.nodes(dict.fromkeys(sorted(self.sum.uploaded), self.sum.ask_reveal()))

    def take_in(self, node: int, answer: Answer) -> None:
        """Hear one share of each neighbour."""
        self.sum.take_reveal(self.who(node), answer)

    def close(self, number: int) -> None:
        """Take the masks off."""
        self.server.finish(number, self.sum.result(), last=not self.server.leave)


class Leave(_Step):
    """The masks between those who leave and those who stay."""

    name = "leave"

    def ask(self, now: Round) -> Mapping[int, Arrays]:
        """Tell everyone in question who leaves."""
        self.server.departure = gone = Departure.of(self.sum, self.server.leave, self.server.alone)
        return self.nodes(dict.fromkeys(sorted(gone.asked(self.sum)), gone.question(self.sum)))

    def take_in(self, node: int, answer: Answer) -> None:
        """Hear the seeds."""
        assert self.server.departure is not None
        self.server.departure.take(self.sum, self.who(node), answer)

    def close(self, number: int) -> None:
        """Subtract those who leave."""
        assert self.server._vector is not None and self.server.departure is not None
        self.server.finish(number, self.server._vector - self.server.departure.result(self.sum))


class SecureAggregation(Protocol):
    """Let an inner strategy solve over a sum whose parts nobody sees.

    Parameters
    ----------
    inner
        Strategy that solves; its clients' statistics must be exact sums of one round.
    dropout, colluding
        Shares of the clients, as `fedlab.privacy.secagg.graph.Terms` has them.
    entropy, seed
        Source of sessions and graphs, 'os' or 'seeded'; the clients' keys are their own.
    leave
        Clients that leave the sum after it is made, by their partitions.
    alone
        Whether clients that share no masks with the others who leave may show their own sum.

    Raises
    ------
    BadInput
        The inner strategy keeps clients' own statistics or takes late ones, which a secure sum does not have.
    """

    def __init__(
        self,
        inner: ClosedForm,
        dropout: float = 0.3,
        colluding: float = 0.1,
        entropy: str = "os",
        seed: int = 0,
        leave: Sequence[int] = (),
        alone: bool = False,
    ):
        name = type(inner).__name__
        if inner.kept or inner.late != "drop":
            raise BadInput(
                f"{name} wants each client's statistics: under secure aggregation there is only their sum, say "
                "keep_clients=null and late=drop"
            )
        if leave and inner.privacy is not None:
            raise BadInput(
                f"leave={list(leave)}: the part of those who leave would show with no noise but their own shares: "
                f"under {name} nobody can leave, sum anew without them"
            )
        if inner.rounds_per_step != 1:
            raise BadInput(f"{name} takes {inner.rounds_per_step} rounds: only what takes one can be summed")
        inner.secure = True
        self.inner, self.dropout, self.colluding = inner, dropout, colluding
        self.entropy, self.seed = check_entropy(entropy), seed
        self.leave, self.alone = _distinct(leave), alone
        self.one_round = inner.one_round or bool(self.leave)
        self.privacy = inner.privacy
        self.sum: SecureSum | None = None
        self.asked: list[int] = []
        self.nodes: dict[int, int] = {}
        self.departure: Departure | None = None
        self.layout: Layout | None = None
        self._vector: np.ndarray | None = None

    @property
    def steps(self) -> Sequence[_Step]:
        """Four, and a fifth where clients leave."""
        return [step(self) for step in (Keys, Shares, Upload, Reveal, *([Leave] if self.leave else []))]

    def settings(self, step: Step[Any], now: Round) -> Mapping[str, Any]:
        """Return the round, the step and the aggregation that it is of."""
        assert self.sum is not None
        return {"server-round": now.number, "step": step.name, "session": self.sum.session}

    def model(self) -> ArrayRecord:
        """Return the inner strategy's head."""
        return self.inner.head()

    def begin(self, now: Round) -> None:
        """Begin a sum over all nodes."""
        self.asked = list(now.grid.get_node_ids())
        clients = len(self.asked)
        if self.entropy == "seeded" and not is_simulated(now.grid):
            raise BadInput(
                "entropy=seeded: who knows the seed can take the masks off; in a deployment say entropy=os"
            )
        if strangers := [who for who in self.leave if not 0 <= who < clients]:
            raise BadInput(
                f"leave={list(self.leave)}: the clients are 0..{clients - 1}, {strangers} are none"
            )
        of = f"{now.number} of {type(self.inner).__name__}"  # another method of the run has other masks
        session = fresh(self.entropy, self.seed, f"session {of}", 16)
        seed = int.from_bytes(fresh(self.entropy, self.seed, f"graph {of}", 16))
        self.sum = SecureSum(Terms(clients, self.dropout, self.colluding), session, seed, self.leave)
        self.nodes, self.departure, self.layout, self._vector = {}, None, None, None
        self.missed = self.inner.missed

    def finish(self, number: int, vector: np.ndarray, last: bool = True) -> None:
        """Let the inner strategy solve over the sum, and know who is not in it."""
        self._vector = vector
        if not last:
            return
        assert self.sum is not None and self.layout is not None
        clients = len(self.sum.uploaded) - len(self.sum.left)
        content = packed_content(statistics_of(vector, self.layout, clients))
        content = as_partial_sum(content, clients, content_bytes(content))
        there = {self.nodes[who] for who in self.sum.uploaded}
        reply = Message(content, SERVER_NODE, MessageType.TRAIN)
        self.inner.aggregate_train(
            number, SecureReply(reply, [node for node in self.asked if node not in there])
        )

    # -- what the inner strategy says --------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The inner strategy's ledger, where it has one."""
        return self.inner.ledger

    @ledger.setter
    def ledger(self, ledger: Ledger | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.inner.ledger = ledger

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint keeps: the inner strategy's state and this aggregation's."""
        return {"inner": self.inner.state_dict(), **{name: getattr(self, name) for name in _KEPT}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` once returned."""
        self.inner.load_state_dict(state["inner"])
        for name in _KEPT:
            setattr(self, name, state[name])
        self.missed = self.inner.missed

    def report(self) -> dict[str, object]:
        """Return what the inner strategy says, and over how many clients."""
        report = self.inner.report()
        if self.sum is None or not report:
            return report
        notes = list(report.pop("notes", []))
        if self.entropy == "seeded":
            notes.append(
                "keys are drawn from the run's seed, so that the run can be repeated, and whoever knows it can take "
                "the masks off: with real data say entropy=os, which gives the same head"
            )
        return {**report, "clients_in_sum": len(self.sum.uploaded) - len(self.sum.left), "notes": notes}


def _distinct(leave: object) -> tuple[int, ...]:
    clients = list(leave) if isinstance(leave, Sequence) and not isinstance(leave, str) else [leave]
    numbers = tuple(one for one in clients if isinstance(one, int) and not isinstance(one, bool))
    if not isinstance(leave, Sequence) or len(set(numbers)) < len(clients):
        raise BadInput(f"leave={leave}: give the numbers of different clients, e.g. leave=[3,17]")
    return numbers
