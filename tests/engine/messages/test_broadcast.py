"""A broadcast is a list of messages to whoever looks, and nothing until then."""

import pickle
import tracemalloc

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from fedlab.engine.messages.broadcast import Broadcast, nodes_of, take
from fedlab.engine.simulation.local_grid import LocalGrid


def make(app, nodes=range(2, 9)) -> Broadcast:
    LocalGrid(app, 7)  # lets this process make messages
    return Broadcast(RecordDict({"config": ConfigRecord({"a": 1})}), nodes, "query.who", group_id="g")


def test_it_is_a_sequence_of_messages(app):
    messages = make(app)
    assert len(messages) == 7 and all(isinstance(m, Message) for m in messages)
    assert [m.metadata.dst_node_id for m in messages] == list(range(2, 9))
    assert messages[-1].metadata.dst_node_id == 8 and messages[1:3][0].metadata.dst_node_id == 3
    assert {(m.metadata.message_type, m.metadata.group_id) for m in messages} == {("query.who", "g")}
    assert all(m.content is messages.content for m in messages)
    assert nodes_of(messages).tolist() == nodes_of(list(messages)).tolist()


def test_a_million_messages_weigh_nothing(app):
    tracemalloc.start()
    messages = make(app, np.arange(2, 1_000_002))
    taken = take(messages, np.arange(500_000, 500_010))
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size < 20e6  # the ids, twice
    assert len(pickle.dumps(taken)) < 2000


def test_replies_name_the_message_they_answer(grid, app):
    messages = make(app)
    asked = list(grid.stream(messages))
    answered = [r.metadata.reply_to_message_id for r in asked]
    assert len(set(answered)) == 7 and all(answered)
    assert [r.metadata.src_node_id for r in asked] == list(range(2, 9))
    again = [r.metadata.reply_to_message_id for r in grid.stream(messages)]
    assert not set(answered) & set(again)  # sent twice is two messages each


def test_a_broadcast_and_the_same_messages_in_a_list_are_answered_alike(grid, app):
    def shown(replies):
        return [(r.metadata.src_node_id, dict(r.content["metrics"])) for r in replies]

    messages = make(app)
    assert shown(grid.stream(messages)) == shown(grid.stream(list(messages)))
