"""One contract for LocalGrid and RayGrid: every test runs on both, on Ray with one and with two workers."""

import random
import time
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.run import Run

from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.simulation.host import node_of, partition_of
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.errors import BadInput


def metrics(replies: list[Message], key: str) -> list[float]:
    return [reply.content["metrics"][key] for reply in replies]


def test_nodes_come_in_the_order_of_their_partitions(grid):
    assert list(grid.get_node_ids()) == [2, 3, 4, 5, 6, 7, 8]
    assert [partition_of(node) for node in grid.get_node_ids()] == list(range(grid.num_nodes))


def test_a_node_knows_its_partition_and_the_run(grid, ask):
    replies = grid.send_and_receive(ask(grid, "who"))
    assert metrics(replies, "partition") == list(range(7))
    assert metrics(replies, "node") == list(grid.get_node_ids())
    assert set(metrics(replies, "partitions")) == {7}
    shown = {tuple(sorted(reply.content["shown"].items())) for reply in replies}
    assert shown == {(("config", "{}"), ("run-id", grid.run.run_id))}


@pytest.mark.parametrize("order", [[6, 5, 4, 3, 2, 1, 0], [0, 0, 3, 3, 1, 6, 1, 0, 2, 5, 5]])
def test_replies_come_in_the_order_of_the_messages(grid, order):
    messages = [Message(RecordDict(), node_of(partition), "query.who") for partition in order]
    replies = grid.send_and_receive(messages)
    assert metrics(replies, "partition") == order
    for message, reply in zip(messages, replies, strict=True):
        assert reply.metadata.reply_to_message_id == message.metadata.message_id != ""
        assert reply.metadata.src_node_id == message.metadata.dst_node_id
        assert reply.metadata.dst_node_id == message.metadata.src_node_id
        assert reply.metadata.message_type == "query.who"
    assert len({message.metadata.message_id for message in messages}) == len(messages)


def test_the_group_is_copied_to_the_reply(grid):
    messages = [Message(RecordDict(), node, "query.who", group_id=f"round {node}") for node in grid.get_node_ids()]
    replies = grid.send_and_receive(messages)
    assert [reply.metadata.group_id for reply in replies] == [m.metadata.group_id for m in messages]


def test_a_nodes_state_survives_messages_and_is_its_own(grid, ask):
    before = metrics(grid.send_and_receive(ask(grid, "count")), "times")
    grid.send_and_receive([Message(RecordDict(), node_of(4), "query.count")])
    after = metrics(grid.send_and_receive(ask(grid, "count")), "times")
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1, 1, 2, 1, 1]


def test_a_node_stays_in_its_process(grid, ask):
    first, second = (metrics(grid.send_and_receive(ask(grid, "who")), "pid") for _ in range(2))
    assert first == second


def test_a_client_that_changes_its_message_changes_nobody_elses(grid):
    content = RecordDict({"config": ConfigRecord({"list": [1, 2]}), "arrays": to_record({"w": np.ones((2, 2))})})
    messages = [Message(content, node, "query.vandal") for node in grid.get_node_ids()]
    assert metrics(grid.send_and_receive(messages), "intact") == [1] * 7
    assert content["config"] == {"list": [1, 2]}
    assert np.array_equal(from_record(content["arrays"])["w"], np.ones((2, 2)))


def test_an_exception_becomes_an_error_reply_with_its_traceback(grid, ask):
    replies = grid.send_and_receive(ask(grid, "fail", partition=4))
    assert [reply.has_error() for reply in replies] == [False] * 4 + [True] + [False] * 2
    error = replies[4].error
    assert error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert error.reason.startswith("Traceback") and "in fail" in error.reason
    assert error.reason.rstrip().endswith("ValueError: no such sample: 42")
    assert replies[4].metadata.src_node_id == node_of(4)


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("query.leave", "SystemExit: 3"),
        ("query.nothing", "TypeError: the ClientApp returned a NoneType, not a Message"),
        ("query.unheard", "ValueError: No query function registered with name 'unheard'"),
    ],
)
def test_whatever_a_client_does_instead_of_answering_is_an_error_reply(grid, action, reason):
    replies = grid.send_and_receive([Message(RecordDict(), node_of(k), action) for k in (0, 1)])
    assert [reply.error.reason.rstrip().splitlines()[-1] for reply in replies] == [reason] * 2
    assert metrics(grid.send_and_receive([Message(RecordDict(), node_of(0), "query.who")]), "partition") == [0]


def test_an_unknown_node_is_an_error_reply_and_the_others_answer(grid):
    nodes = [node_of(0), 99, 1, node_of(1)]
    replies = grid.send_and_receive([Message(RecordDict(), node, "query.who") for node in nodes])
    assert [reply.has_error() for reply in replies] == [False, True, True, False]
    assert replies[1].error.code == ErrorCode.NODE_UNAVAILABLE
    assert replies[1].error.reason == "node 99 is not one of 7 simulated nodes"
    assert replies[1].metadata.src_node_id == 99


def test_pushed_messages_are_pulled_once_each(grid, ask):
    ids = list(grid.push_messages(iter(ask(grid, "who"))))  # an iterator: Flower's own walks its argument twice
    assert len(set(ids)) == 7
    assert metrics(list(grid.pull_messages([ids[2], ids[0], "unheard of"])), "partition") == [2, 0]
    assert metrics(list(grid.pull_messages(ids)), "partition") == [1, 3, 4, 5, 6]
    assert list(grid.pull_messages(ids)) == []


def test_no_messages_no_replies(grid):
    assert grid.send_and_receive([]) == []
    assert list(grid.push_messages([])) == []


def test_a_timeout_leaves_replies_out_without_an_error(grid, ask, request, tmp_path):
    if isinstance(grid, LocalGrid):
        request.getfixturevalue("clock")
    gate = tmp_path / "gate"
    replies = grid.send_and_receive(ask(grid, "wait", file=str(gate)), timeout=4)
    gate.touch()
    answered = metrics(replies, "partition")
    assert answered == sorted(answered)
    # Client 1 may share client 3's chunk, and a chunk returns whole.
    assert 3 not in answered and 0 in answered and not any(reply.has_error() for reply in replies)
    # The next round is whole again.
    assert metrics(grid.send_and_receive(ask(grid, "wait", file=str(gate))), "partition") == list(range(7))


def test_a_generous_timeout_leaves_nothing_out(grid, ask):
    assert metrics(grid.send_and_receive(ask(grid, "who"), timeout=60), "partition") == list(range(7))


def test_a_stream_runs_ahead_of_its_reader_by_a_few_clients_only(grid, tmp_path):
    trace = tmp_path / "ran"
    content = RecordDict({"config": ConfigRecord({"file": str(trace)})})
    messages = [Message(content, node_of(k % 7), "query.trace") for k in range(210)]
    replies = grid.stream(messages)
    for _ in range(3):
        next(replies)
    time.sleep(0.3)
    # On Ray: two chunks of two under way per worker, at most twice as many ahead.
    ran = len(Path(trace).read_text().splitlines())
    assert ran == 3 if isinstance(grid, LocalGrid) else ran <= 3 + 2 * 2 * 2 * 2 + 2
    assert len(list(replies)) == 207
    assert len(Path(trace).read_text().splitlines()) == 210


def test_a_reader_that_stops_leaves_a_working_grid(grid, ask):
    for reply in grid.stream(ask(grid, "who")):
        assert reply.content["metrics"]["partition"] == 0
        break
    with pytest.raises(RuntimeError, match="reader"):
        for _ in grid.stream(ask(grid, "who")):
            raise RuntimeError("reader")
    assert metrics(grid.send_and_receive(ask(grid, "who")), "partition") == list(range(7))


def test_create_message_and_set_run_are_flowers(grid):
    message = grid.create_message(RecordDict(), "query.who", node_of(2), "1", ttl=60.0)
    assert message.metadata.run_id == grid.run.run_id and message.metadata.ttl == 60.0
    before = grid.run
    try:
        grid.set_run(Run.create_empty(run_id=77))
        message = Message(RecordDict(), node_of(2), "query.who")
        (reply,) = grid.send_and_receive([message])
        assert reply.metadata.run_id == message.metadata.run_id == 77
    finally:
        grid.set_run(before)


HEADS: dict[str, bytes] = {}


def test_flowers_own_loop_gives_the_same_bits_on_every_grid(grid, request):
    random.seed(0)  # Flower's strategies sample, and so order, their nodes by the global generator
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=1.0, min_available_nodes=7)
    start = to_record({"w": np.linspace(-1, 1, 33).reshape(3, 11), "b": np.zeros(5, np.float32)})
    seen: list[int] = []
    result = strategy.start(
        grid,
        start,
        num_rounds=3,
        timeout=60,
        evaluate_fn=lambda server_round, arrays: seen.append(server_round) or MetricRecord({"round": server_round}),
    )
    assert seen == [0, 1, 2, 3]
    assert list(result.train_metrics_clientapp) == list(result.evaluate_metrics_clientapp) == [1, 2, 3]
    model = from_record(result.arrays)
    HEADS[request.node.callspec.id] = b"".join(model[name].tobytes() for name in ("w", "b"))
    assert len(set(HEADS.values())) == 1
    # FedAvg by hand: the weighted mean of 0.9 w + noise, where partition k weighs k + 1.
    expected = from_record(start)["w"]
    noise = np.stack([np.random.default_rng(k).normal(size=(3, 11)) for k in range(7)])
    for _ in range(3):
        expected = 0.9 * expected + np.average(noise, axis=0, weights=np.arange(1, 8))
    assert np.allclose(model["w"], expected, atol=1e-12)


@pytest.mark.parametrize("num_nodes", [0, -3, 2.0, True])
def test_a_federation_without_clients_is_refused(num_nodes):
    with pytest.raises(BadInput, match=rf"clients={num_nodes} must be a whole number >= 1"):
        LocalGrid(ClientApp(), num_nodes)
