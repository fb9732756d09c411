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

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedlab.engine.aggregation.closed_form import ClosedForm
from fedlab.engine.aggregation.replies import refuse
from fedlab.engine.messages.identity import SERVER_NODE
from fedlab.engine.messages.partial_sums import as_partial_sum, packed_of
from fedlab.engine.messages.records import content_bytes, to_record
from fedlab.errors import BadInput
from fedlab.privacy.mechanisms.noise_source import check_entropy
from fedlab.privacy.secagg.client import Answer
from fedlab.privacy.secagg.graph import Terms
from fedlab.privacy.secagg.key_agreement import fresh
from fedlab.privacy.secagg.removal import Removal
from fedlab.privacy.secagg.server import STEPS, SecureSum, expect
from fedlab.stats import pack
from fedlab.stats.serialization.integers import Layout, statistics_of

_KEPT = ("sum", "asked", "nodes", "departure", "layout", "_vector")


class SecureAggregation(ClosedForm):
    """Let an inner strategy solve over a sum whose parts nobody sees.

    Parameters
    ----------
    inner
        The strategy; its clients' statistics must be exact sums of one round.
    dropout, colluding
        Shares of the clients, as `fedlab.privacy.secagg.graph.Terms` has them.
    entropy, seed
        Where sessions and graphs come from, 'os' or 'seeded'; the clients' keys are their own.
    leave
        Who leaves the sum after it is made: clients by their partitions.
    alone
        Whether clients that share no masks with the others who leave may show their own sum.

    Raises
    ------
    BadInput
        The inner strategy keeps clients' own statistics or takes late ones, which a secure sum does not have.
    """

    partial_sum = None

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
        if getattr(inner, "kept", None) or getattr(inner, "late", "drop") != "drop":
            raise BadInput(
                f"{type(inner).__name__} wants each client's statistics: under secure aggregation there is only "
                "their sum, say keep_clients=null and late=drop"
            )
        if leave and hasattr(inner, "secure"):
            raise BadInput(
                f"leave={list(leave)}: the part of those who leave would show with no noise but their own shares: "
                f"under {type(inner).__name__} nobody can leave, sum anew without them"
            )
        if inner.rounds_per_step != 1:
            raise BadInput(
                f"{type(inner).__name__} takes {inner.rounds_per_step} rounds: only what takes one can be summed"
            )
        self.inner, self.dropout, self.colluding = inner, dropout, colluding
        self.entropy, self.seed = check_entropy(entropy), seed
        self.leave, self.alone = _distinct(leave), alone
        self.rounds_per_step = 5 if self.leave else 4
        self.one_round = inner.one_round or bool(self.leave)
        if hasattr(inner, "secure"):
            inner.secure = True  # pyright: ignore[reportAttributeAccessIssue]
        self.sum: SecureSum | None = None
        self.asked: list[int] = []
        self.nodes: dict[int, int] = {}
        self.departure: Removal | None = None
        self.layout: Layout | None = None
        self._vector: np.ndarray | None = None

    # -- asking ------------------------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask who is still there for the next step.

        Raises
        ------
        BadInput
            Too few are, or those who are to leave cannot.
        """
        step = self._step(server_round)
        if step == "keys":
            self._begin(server_round, grid)
        assert self.sum is not None
        config = ConfigRecord(
            {**config, "server-round": server_round, "step": step, "session": self.sum.session}
        )
        if step == "keys":
            return self.ask(grid, config)
        if step == "shares":
            return self._each(self.sum.ask_shares(), config)
        if step == "upload":
            # It may have to enter a release, or refuse one, before anything is uploaded.
            self.inner.configure_train(server_round, arrays, config, grid)
            return self._each(self.sum.ask_upload(), config)
        if step == "reveal":
            return self._all(self.sum.ask_reveal(), self.sum.uploaded, config)
        self.departure = Removal.of(self.sum, self.leave, self.alone)
        return self._all(self.departure.question(self.sum), self.departure.asked(self.sum), config)

    def _begin(self, server_round: int, grid: Grid) -> None:
        self.asked = list(grid.get_node_ids())
        clients = len(self.asked)
        if self.entropy == "seeded" and not getattr(grid, "simulated", True):
            raise BadInput(
                "entropy=seeded: who knows the seed can take the masks off; in a deployment say entropy=os"
            )
        if strangers := [who for who in self.leave if not 0 <= who < clients]:
            raise BadInput(
                f"leave={list(self.leave)}: the clients are 0..{clients - 1}, {strangers} are none"
            )
        of = f"{server_round} of {type(self.inner).__name__}"  # another method of the run has other masks
        session = fresh(self.entropy, self.seed, f"session {of}", 16)
        seed = int.from_bytes(fresh(self.entropy, self.seed, f"graph {of}", 16))
        self.sum = SecureSum(Terms(clients, self.dropout, self.colluding), session, seed, self.leave)
        self.nodes, self.departure, self.layout, self._vector = {}, None, None, None

    def _each(self, questions: Mapping[int, Answer], config: ConfigRecord) -> list[Message]:
        """Ask each its own; where data come as a stream it is told the rounds whose samples are not in the head yet."""
        missed: Mapping[int, Sequence[int]] = getattr(self.inner, "missed", {})
        messages = []
        for who, asked in questions.items():
            node = self.nodes[who]
            told = ConfigRecord({**config, "missed-rounds": list(missed[node])}) if node in missed else config
            content = RecordDict({"arrays": to_record(asked), "config": told})
            messages.append(Message(content, node, MessageType.TRAIN))
        return messages

    def _all(self, question: Answer, clients: Iterable[int], config: ConfigRecord) -> list[Message]:
        content = RecordDict({"arrays": to_record(question), "config": config})
        return [Message(content, self.nodes[who], MessageType.TRAIN) for who in sorted(clients)]

    # -- hearing -----------------------------------------------------------------------------------------------

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Hear the answers of a step; after the last, let the inner strategy solve.

        Raises
        ------
        BadInput
            Too few clients answered for a sum.
        ClientFailed
            More clients' answers are refused than may fail; the first is named.
        """
        assert self.sum is not None
        step = self._step(server_round)
        for reply in replies:
            if reply.has_error():
                continue
            try:
                self._take(step, reply.metadata.src_node_id, packed_of(reply.content))
            except BadInput as error:
                refuse(replies, reply, error)
        if step == "reveal":
            self._vector = self.sum.result()
        elif step == "leave":
            assert self.departure is not None and self._vector is not None
            self._vector = self._vector - self.departure.result(self.sum)
        if server_round % self.rounds_per_step == 0:
            return self._solve(server_round)
        return self.inner.head(), None

    def _take(self, step: str, node: int, answer: Answer) -> None:
        assert self.sum is not None
        if step == "keys":
            who = int(expect(answer, "who", np.uint64, (1,))[0])
            if self.nodes.get(who, node) != node or who >= self.sum.terms.clients:
                raise BadInput(
                    f"it says it is client {who} of {self.sum.terms.clients}, and so does another node"
                )
            self.sum.take_keys(who, answer)
            self.nodes[who] = node
            return
        who = next(who for who, one in self.nodes.items() if one == node)
        if step == "upload":
            layout = Layout.read(answer.get("layout", np.zeros(0)))
            if self.layout not in (None, layout):
                raise BadInput(f"its statistics are laid out as {layout}, the others' as {self.layout}")
            if len(answer.get("masked", ())) != layout.length:
                raise BadInput(f"its masked statistics are not the {layout.length} integers of {layout}")
            self.sum.take_upload(who, answer)
            self.layout = layout
        elif step == "leave":
            assert self.departure is not None
            self.departure.take(self.sum, who, answer)
        elif step == "shares":
            self.sum.take_shares(who, answer)
        else:
            self.sum.take_reveal(who, answer)

    def _solve(self, server_round: int) -> tuple[ArrayRecord | None, MetricRecord | None]:
        assert self.sum is not None and self._vector is not None and self.layout is not None
        clients = len(self.sum.uploaded) - len(self.sum.left)
        packed = to_record(pack(statistics_of(self._vector, self.layout, clients)))
        content = RecordDict({"arrays": packed})
        reply = Message(
            as_partial_sum(content, clients, content_bytes(content)), SERVER_NODE, MessageType.TRAIN
        )
        missed: Mapping[int, Sequence[int]] = getattr(self.inner, "missed", {})
        model = self.inner.aggregate_train(server_round, [reply])
        if hasattr(self.inner, "missed"):
            there = {self.nodes[who] for who in self.sum.uploaded}
            silent = [node for node in self.asked if node not in there]
            self.inner.missed = {node: [*missed.get(node, ()), server_round] for node in silent}  # pyright: ignore[reportAttributeAccessIssue]
        return model

    def _step(self, server_round: int) -> str:
        return STEPS[(server_round - 1) % self.rounds_per_step]

    # -- what the inner strategy says --------------------------------------------------------------------------

    @property
    def privacy(self) -> Any:
        """The terms of the inner strategy's ledger, where it has one."""
        return self.inner.privacy  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def ledger(self) -> Any:
        """The inner strategy's ledger, where it has one."""
        return self.inner.ledger  # pyright: ignore[reportAttributeAccessIssue]

    @ledger.setter
    def ledger(self, ledger: Any) -> None:
        self.inner.ledger = ledger  # pyright: ignore[reportAttributeAccessIssue]

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint keeps: the inner strategy's state and this aggregation's."""
        own = {name: getattr(self, name) for name in _KEPT}
        return {"inner": self.inner.state_dict(), **own}  # pyright: ignore[reportAttributeAccessIssue]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` once returned."""
        self.inner.load_state_dict(state["inner"])  # pyright: ignore[reportAttributeAccessIssue]
        for name in _KEPT:
            setattr(self, name, state[name])

    def report(self) -> dict[str, object]:
        """Return what the inner strategy says, and over how many clients."""
        told = self.inner.report()  # pyright: ignore[reportAttributeAccessIssue]
        if self.sum is None or not told:
            return told
        notes = list(told.pop("notes", []))
        if self.entropy == "seeded":
            notes.append(
                "keys are drawn from the run's seed, so that the run can be repeated, and whoever knows it can take "
                "the masks off: with real data say entropy=os, which gives the same head"
            )
        return {**told, "clients_in_sum": len(self.sum.uploaded) - len(self.sum.left), "notes": notes}


def _distinct(leave: object) -> tuple[int, ...]:
    clients = list(leave) if isinstance(leave, Sequence) and not isinstance(leave, str) else [leave]
    numbers = tuple(one for one in clients if isinstance(one, int) and not isinstance(one, bool))
    if not isinstance(leave, Sequence) or len(set(numbers)) < len(clients):
        raise BadInput(f"leave={leave}: give the numbers of different clients, e.g. leave=[3,17]")
    return numbers
