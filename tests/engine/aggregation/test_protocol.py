"""A protocol is a list of steps: what each is asked, in which order, and what becomes of answers that are none."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedlab.engine.aggregation.protocol import Protocol, Step
from fedlab.engine.aggregation.rounds import run_rounds
from fedlab.engine.messages.broadcast import Broadcast
from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput, ClientFailed


class Poll(Protocol):
    """Names: everyone's number, of which some may be unwanted. Twice: everyone who is known doubles it."""

    def __init__(self, unwanted=(), ask=lambda now: None, at_once=False):
        self.unwanted, self.first_ask, self.at_once = unwanted, ask, at_once
        self.numbers, self.calls = {}, []

    @property
    def steps(self):
        return [
            Step(
                "names",
                ask=self.first_ask,
                charge=lambda now, nodes: self.calls.append(("charge", sorted(nodes))),
                check=self.check,
                take_in=self.take_in,
                close=lambda number: self.calls.append(("close", number)),
                at_once=self.at_once,
            ),
            Step(
                "twice",
                ask=lambda now: {node: {"number": np.array(n)} for node, n in self.numbers.items()},
                settings=lambda now: {"factor": 2},
                take_in=lambda node, answer: self.numbers.update({node: float(answer["number"])}),
            ),
        ]

    def check(self, node, answer):
        if int(answer["number"]) in self.unwanted:
            raise BadInput("its number is not wanted")
        return float(answer["number"])

    def take_in(self, node, answer):
        self.calls.append(("take in", node))
        self.numbers[node] = answer

    def model(self):
        return to_record({"numbers": np.array(list(self.numbers.values()))})


def grid(silent=()):
    app = ClientApp()

    @app.train()
    def train(message, context):
        k = int(context.node_config["partition-id"])
        sent = from_record(message.content["arrays"])
        number = sent["number"] * message.content["config"]["factor"] if sent else np.array(float(k))
        arrays = {} if k in silent else {"number": number}
        return Message(RecordDict({"arrays": to_record(arrays)}), reply_to=message)

    return LocalGrid(app, 4)


def test_the_rounds_are_the_steps_and_begin_anew():
    poll = Poll()
    assert poll.rounds_per_step == 2 and [poll.step(n).name for n in (1, 2, 3)] == ["names", "twice", "names"]
    history = run_rounds(poll, MeteredGrid(grid()), ArrayRecord(), 2)
    assert from_record(history.arrays)["numbers"].tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize("at_once", [False, True])
def test_who_is_asked_is_charged_first_and_answers_are_taken_in_by_node_or_as_they_come(at_once):
    poll, here = Poll(at_once=at_once), grid()
    asked = poll.configure_train(1, ArrayRecord(), ConfigRecord(), here)
    assert isinstance(asked, Broadcast) and poll.calls == [("charge", [2, 3, 4, 5])]
    replies = list(here.stream(asked))[::-1]
    poll.aggregate_train(1, replies)
    order = [5, 4, 3, 2] if at_once else [2, 3, 4, 5]
    assert poll.calls[1:] == [*(("take in", node) for node in order), ("close", 1)]


def test_an_answer_that_is_none_is_its_clients_failure():
    with pytest.raises(ClientFailed, match=r"client 3 failed: .*its reply was refused: its number is not wanted"):
        run_rounds(Poll(unwanted=[3]), MeteredGrid(grid()), ArrayRecord(), 1)
    history = run_rounds(Poll(unwanted=[3]), MeteredGrid(grid()), ArrayRecord(), 2, tolerate=0.25)
    assert list(history.failures) == ["3"] and from_record(history.arrays)["numbers"].tolist() == [0, 2, 4]
    with pytest.raises(ClientFailed, match=r"client 1 failed: .*its reply was refused: no 'number' in the reply"):
        run_rounds(Poll(), MeteredGrid(grid(silent=[1])), ArrayRecord(), 1)


def test_who_is_asked_the_same_shares_its_content():
    question = {"number": np.array(1.0)}
    poll = Poll(ask=lambda now: {2: question, 4: question, 5: {"number": np.array(2.0)}})
    first, second, third = poll.configure_train(1, ArrayRecord(), ConfigRecord(), grid())
    assert first.content is second.content and third.content is not first.content
