"""Protocols in several rounds: a list of steps, each of which asks, charges, checks and takes in.

    for step in steps:   ask      charge      for each reply: take_in(check(answer))      close

A new protocol is a list of steps; nothing else knows which round is which. The clients' side of a step is a handler of
the same name in the learner's `respond`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fedlab.engine.aggregation.replies import taken
from fedlab.engine.aggregation.strategy import NOBODY, FedlabStrategy, Messages
from fedlab.engine.messages.partial_sums import packed_of
from fedlab.engine.messages.records import to_record
from fedlab.errors import BadInput

Arrays = Mapping[str, np.ndarray]
Answer = dict[str, np.ndarray]


@dataclass(frozen=True)
class Round:
    """The round that a step is asked in.

    Attributes:
        number: Number of the round, from 1.
        grid: Grid of the clients.
        arrays: Model before the round.
        config: Settings that every message carries.
    """

    number: int
    grid: Grid
    arrays: ArrayRecord
    config: ConfigRecord


@dataclass(frozen=True)
class Step:
    """One round of a protocol, as the functions that it is made of: usually methods of the strategy.

    Attributes:
        name: Name by which a client knows the step.
        ask: From the round, the arrays that each node is asked with; None asks every node, with none. It may refuse.
        charge: From the round and the nodes, enters what these are about to release; if that is refused nobody is
            asked.
        check: From a node and its answer, what that says; on BadInput it is refused, as a failure of its client.
        take_in: From a node and what `check` returned, takes it in.
        close: From the number of the round, concludes it, once every answer is taken in.
        settings: From the round, settings of this step's messages, beside those that every message carries.
        at_once: Whether answers are taken in as they arrive and not held: where their order does not show, and
            `take_in` may refuse, too. Else they are taken in after the last, by node: who was faster must not show in
            a sum of floats.
        tells_missed: Whether nodes are told the rounds that they were asked in vain (`missed` of the strategy).
    """

    name: str
    ask: Callable[[Round], Mapping[int, Arrays] | None] = lambda now: None
    charge: Callable[[Round, Sequence[int]], object] = lambda now, nodes: None
    check: Callable[[int, Answer], Any] = lambda node, answer: answer
    take_in: Callable[[int, Any], object] = lambda node, answer: None
    close: Callable[[int], None] = lambda number: None
    settings: Callable[[Round], Mapping[str, Any]] = lambda now: {}
    at_once: bool = False
    tells_missed: bool = False


class Protocol(FedlabStrategy):
    """A strategy whose rounds are steps: `steps` and `model` are left to say."""

    streaming = True
    replies_are_models = False

    @property
    @abstractmethod
    def steps(self) -> Sequence[Step]:
        """The steps, in their order."""

    @abstractmethod
    def model(self) -> ArrayRecord:
        """Return the model as it is after a round."""

    @property
    def rounds_per_step(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many rounds it takes."""
        return len(self.steps)

    def step(self, server_round: int) -> Step:
        """Return the step of a round; a protocol begins anew after its last."""
        return self.steps[(server_round - 1) % len(self.steps)]

    def settings(self, step: Step, now: Round) -> Mapping[str, Any]:
        """Return the settings of every message."""
        return {"server-round": now.number}

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Messages:
        """Ask for the next step, once it is paid for."""
        step, now = self.step(server_round), Round(server_round, grid, arrays, config)
        questions = step.ask(now)
        step.charge(now, list(grid.get_node_ids() if questions is None else questions))
        settings = ConfigRecord({**config, **self.settings(step, now), **step.settings(now)})
        if questions is None:
            return self.ask(grid, settings)
        records = {id(one): to_record(one) for one in questions.values()}  # who is asked the same shares it
        missed = self.missed if step.tells_missed else NOBODY
        return self.ask_each({node: records[id(one)] for node, one in questions.items()}, settings, missed)

    def aggregate_train(self, server_round: int, replies: Messages) -> tuple[ArrayRecord, None]:
        """Take in what clients answered; an answer that is none is refused by name, as a failure of its client."""
        step = self.step(server_round)

        def heard(reply: Message) -> Any:
            node = reply.metadata.src_node_id
            try:
                answer = step.check(node, packed_of(reply.content))
            except KeyError as error:
                raise BadInput(f"no {error} in the reply") from error
            return step.take_in(node, answer) if step.at_once else answer

        answers = dict(taken(replies, heard))
        for node in () if step.at_once else sorted(answers):
            step.take_in(node, answers[node])
        step.close(server_round)
        return self.model(), None
