"""Flower's private metadata, touched in one module: a new Flower would break here, and it says so."""

import copy

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedlab.engine.messages import identity
from fedlab.engine.messages.records import to_record
from fedlab.engine.simulation.local_grid import LocalGrid

MOVED = (
    "Flower has moved {what}, which fedlab.engine.messages.identity relies on. Look at flwr.app.Message.__init__ and "
    "at the SuperLink's handling of messages, adapt that one module, and pin flwr in pyproject.toml to what "
    "was tested."
)


def test_flower_still_reads_the_identity_that_become_sets():
    try:
        identity.become(run_id=41, node_id=43)
        message = Message(RecordDict(), 7, "train")
    except Exception as error:
        pytest.fail(MOVED.format(what="TaskIdentity") + f" ({error!r})")
    assert (message.metadata.run_id, message.metadata.src_node_id) == (41, 43), MOVED.format(what="TaskIdentity")


def test_flower_still_keeps_the_message_id_where_stamp_writes_it():
    identity.become(1, 1)
    message = Message(RecordDict(), 7, "train")
    assert message.metadata.message_id == "", MOVED.format(what="the empty id of a message not yet sent")
    stamped = identity.stamp(message)
    assert message.metadata.message_id == stamped != "", MOVED.format(what="the message id")
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == stamped, MOVED.format(what="the id that a reply answers")
    assert identity.stamp(message) != stamped


def test_flower_still_keeps_the_content_where_private_copy_writes_it():
    identity.become(1, 1)
    content = RecordDict(
        {"arrays": to_record({"w": [1.0]}), "m": MetricRecord({"a": [1, 2]}), "c": ConfigRecord({"b": ["x"], "s": "y"})}
    )
    before = copy.deepcopy(content)
    message = Message(content, 7, "train")
    received = identity.private_copy(message)
    assert received.content == content and received.metadata is message.metadata
    received.content["m"]["a"].append(3)
    received.content["c"]["b"][0] = "z"
    received.content["c"]["s"] = "z"
    received.content["arrays"]["w"] = to_record({"w": [2.0]})["w"]
    received.content["new"] = MetricRecord({"a": 1})
    assert message.content == before, MOVED.format(what="a message's content")


def test_the_server_is_who_flower_says_it_is():
    from flwr.common.constant import SUPERLINK_NODE_ID

    assert identity.SERVER_NODE == SUPERLINK_NODE_ID, MOVED.format(what="the SuperLink's node id")
    assert identity.FIRST_CLIENT_NODE > identity.SERVER_NODE


def test_a_second_grid_does_not_break_the_first(app):
    first, second = LocalGrid(app, 2), LocalGrid(app, 3)
    assert first.run.run_id != second.run.run_id
    for grid in (first, second, first):
        replies = grid.send_and_receive([Message(RecordDict(), node, "query.who") for node in grid.get_node_ids()])
        assert [reply.has_content() for reply in replies] == [True] * grid.num_nodes
