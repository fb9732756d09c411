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
from fedlab.engine.aggregation.protocol import Protocol, Round, Step
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
from fedlab.privacy.secagg.removal import Removal
from fedlab.privacy.secagg.server import SecureSum, expect
from fedlab.stats.serialization.integers import Layout, statistics_of

_KEPT = ("sum", "asked", "nodes", "departure", "layout", "_vector")


class SecureAggregation(Protocol):
    """Let an inner strategy solve over a sum whose parts nobody sees.

    Args:
        inner: Strategy that solves; its clients' statistics must be exact sums of one round.
        dropout, colluding: Shares of the clients, as `fedlab.privacy.secagg.graph.Terms` has them.
        entropy, seed: Source of sessions and graphs, 'os' or 'seeded'; the clients' keys are their own.
        leave: Clients that leave the sum after it is made, by their partitions.
        alone: Whether clients that share no masks with the others who leave may show their own sum.

    Raises:
        BadInput: The inner strategy keeps clients' own statistics or takes late ones, which a secure sum does not
            have.
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
        self.departure: Removal | None = None
        self.layout: Layout | None = None
        self._vector: np.ndarray | None = None

    @property
    def steps(self) -> Sequence[Step]:
        """Four, and a fifth where clients leave."""
        leave = Step("leave", self._departure, take_in=self._seeds, close=self._subtract, at_once=True)
        return [
            Step("keys", self._begin, take_in=self._keys, at_once=True),
            Step(
                "shares",
                lambda _: self._by_node(self._sum.ask_shares()),
                take_in=lambda node, answer: self._sum.take_shares(self._who(node), answer),
                at_once=True,
                tells_missed=True,
            ),
            Step(
                "upload",
                lambda _: self._by_node(self._sum.ask_upload()),
                # The inner strategy may have to enter a release, or refuse one, before anything is uploaded.
                charge=lambda now, _: self.inner.configure_train(now.number, now.arrays, now.config, now.grid),
                take_in=self._upload,
                at_once=True,
                tells_missed=True,
            ),
            Step(
                "reveal",
                lambda _: self._by_node(dict.fromkeys(sorted(self._sum.uploaded), self._sum.ask_reveal())),
                take_in=lambda node, answer: self._sum.take_reveal(self._who(node), answer),
                close=self._unmask,
                at_once=True,
            ),
            *([leave] if self.leave else []),
        ]

    def settings(self, step: Step, now: Round) -> Mapping[str, Any]:
        """Return the round, the step and the aggregation that it is of."""
        return {"server-round": now.number, "step": step.name, "session": self._sum.session}

    def model(self) -> ArrayRecord:
        """Return the inner strategy's head."""
        return self.inner.head()

    # -- asking ------------------------------------------------------------------------------------------------

    def _begin(self, now: Round) -> None:
        self.asked = list(now.grid.get_node_ids())
        clients = len(self.asked)
        if self.entropy == "seeded" and not is_simulated(now.grid):
            raise BadInput("entropy=seeded: who knows the seed can take the masks off; in a deployment say entropy=os")
        if strangers := [who for who in self.leave if not 0 <= who < clients]:
            raise BadInput(f"leave={list(self.leave)}: the clients are 0..{clients - 1}, {strangers} are none")
        of = f"{now.number} of {type(self.inner).__name__}"  # another method of the run has other masks
        session = fresh(self.entropy, self.seed, f"session {of}", 16)
        seed = int.from_bytes(fresh(self.entropy, self.seed, f"graph {of}", 16))
        self.sum = SecureSum(Terms(clients, self.dropout, self.colluding), session, seed, self.leave)
        self.nodes, self.departure, self.layout, self._vector = {}, None, None, None
        self.missed = self.inner.missed

    @property
    def _sum(self) -> SecureSum:
        assert self.sum is not None
        return self.sum

    def _by_node(self, questions: Mapping[int, Answer]) -> dict[int, Answer]:
        return {self.nodes[who]: question for who, question in questions.items()}

    def _departure(self, now: Round) -> dict[int, Answer]:
        self.departure = gone = Removal.of(self._sum, self.leave, self.alone)
        return self._by_node(dict.fromkeys(sorted(gone.asked(self._sum)), gone.question(self._sum)))

    # -- hearing -----------------------------------------------------------------------------------------------

    def _who(self, node: int) -> int:
        return next(who for who, one in self.nodes.items() if one == node)

    def _keys(self, node: int, answer: Answer) -> None:
        who = int(expect(answer, "who", np.uint64, (1,))[0])
        if self.nodes.get(who, node) != node or who >= self._sum.terms.clients:
            raise BadInput(f"it says it is client {who} of {self._sum.terms.clients}, and so does another node")
        self._sum.take_keys(who, answer)
        self.nodes[who] = node

    def _upload(self, node: int, answer: Answer) -> None:
        layout = Layout.read(answer.get("layout", np.zeros(0)))
        if self.layout not in (None, layout):
            raise BadInput(f"its statistics are laid out as {layout}, the others' as {self.layout}")
        if len(answer.get("masked", ())) != layout.length:
            raise BadInput(f"its masked statistics are not the {layout.length} integers of {layout}")
        self._sum.take_upload(self._who(node), answer)
        self.layout = layout

    def _seeds(self, node: int, answer: Answer) -> None:
        assert self.departure is not None
        self.departure.take(self._sum, self._who(node), answer)

    def _unmask(self, number: int) -> None:
        self._vector = self._sum.result()
        if not self.leave:
            self._solve(number, self._vector)

    def _subtract(self, number: int) -> None:
        assert self.departure is not None and self._vector is not None
        self._vector = self._vector - self.departure.result(self._sum)
        self._solve(number, self._vector)

    def _solve(self, number: int, vector: np.ndarray) -> None:
        """Let the inner strategy solve over the sum, and know who is not in it."""
        assert self.layout is not None
        clients = len(self._sum.uploaded) - len(self._sum.left)
        content = packed_content(statistics_of(vector, self.layout, clients))
        content = as_partial_sum(content, clients, content_bytes(content))
        there = {self.nodes[who] for who in self._sum.uploaded}
        silent = [node for node in self.asked if node not in there]
        reply = Message(content, SERVER_NODE, MessageType.TRAIN)
        self.inner.aggregate_train(number, SecureReply(reply, silent))

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
