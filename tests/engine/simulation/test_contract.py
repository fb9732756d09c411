"""What Flower's own engine does with a client that misbehaves or is late, on LocalGrid and on RayGrid.

What each test expects was read off `flwr.simulation` 1.41; where a Grid of ours does otherwise, the test is
marked as expected to fail and says so.
"""

import time
from collections.abc import Iterator

import pytest

from fedlab.engine.simulation.local_grid import LocalGrid  # isort: skip  # first: it switches Flower's network calls off
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod
from flwr.common.constant import ErrorCode

from fedlab.engine.simulation.simulated import SimulatedGrid

NODES = 3


def make_app() -> ClientApp:
    def outer(message: Message, context: Context, call_next) -> Message:
        reply = call_next(message, context)
        if reply.has_content():
            reply.content["trace"]["outer"] = 2 * reply.content["trace"].get("inner", 0)
        return reply

    def inner(message: Message, context: Context, call_next) -> Message:
        message.content["seen"] = MetricRecord({"by": 1})
        reply = call_next(message, context)
        reply.content["trace"]["inner"] = reply.content["trace"]["seen"] + 10
        return reply

    app = ClientApp(mods=[outer])

    @app.query("modded", mods=[inner])
    def modded(message: Message, context: Context) -> Message:
        seen = MetricRecord({"seen": int("seen" in message.content)})
        return Message(RecordDict({"trace": seen}), reply_to=message)

    @app.train(mods=[fixedclipping_mod])
    def clipped(message: Message, context: Context) -> Message:
        return Message(RecordDict({"arrays": message.content["arrays"]}), reply_to=message)

    def counted(message: Message, context: Context) -> Message:
        times = context.state["seen"]["times"] + 1 if "seen" in context.state else 1
        context.state["seen"] = MetricRecord({"times": times})
        config = message.content.get("config", {})
        if config.get("reconfigure"):
            context.run_config["mine"] = 1
        if config.get("seconds") and context.node_config["partition-id"] == 1:
            time.sleep(config["seconds"])
        if config.get("fail"):
            raise ValueError("after it has changed its state")
        told = {"times": times, "mine": context.run_config.get("mine", 0)}
        return Message(RecordDict({"trace": MetricRecord(told)}), reply_to=message)

    app.query("count")(counted)
    app.evaluate()(counted)
    return app


@pytest.fixture(scope="module", params=["local", "ray"])
def grid(request: pytest.FixtureRequest) -> Iterator[SimulatedGrid]:
    if request.param == "local":
        made: SimulatedGrid = LocalGrid(make_app(), NODES, {"rounds": "3"})
    else:
        from fedlab.engine.simulation.ray_grid import RayGrid

        request.getfixturevalue("ray_runtime")
        made = RayGrid(make_app(), NODES, {"rounds": "3"}, num_workers=2, cpus_per_worker=0.5, chunk=1)
    with made:
        yield made


def ask(grid: SimulatedGrid, kind: str, ttl: float | None = None, **config) -> list[Message]:
    content = RecordDict({"config": ConfigRecord(config)})
    messages = [Message(content, node, kind, ttl=ttl) for node in grid.get_node_ids()]
    return list(grid.send_and_receive(messages))


def times(grid: SimulatedGrid) -> list[int]:
    return [reply.content["trace"]["times"] for reply in ask(grid, "query.count")]


def test_the_apps_mods_come_around_the_functions_own(grid):
    assert [dict(reply.content["trace"]) for reply in ask(grid, "query.modded")] == [
        {"seen": 1, "inner": 11, "outer": 22}
    ] * NODES


def test_a_mod_that_refuses_a_message_answers_with_its_own_error(grid):
    content = RecordDict({"arrays": ArrayRecord([]), "config": ConfigRecord({"no": "norm"})})
    messages = [Message(content, node, "train") for node in grid.get_node_ids()]
    errors = [reply.error for reply in grid.send_and_receive(messages)]
    assert {error.code for error in errors} == {ErrorCode.MOD_FAILED_PRECONDITION}
    assert all("clipping_norm" in error.reason for error in errors)


def test_state_is_one_whatever_the_message_type_and_the_way_it_came(grid):
    before = times(grid)
    ask(grid, "evaluate")
    ids = list(grid.push_messages([Message(RecordDict(), node, "evaluate") for node in grid.get_node_ids()]))
    assert [reply.content["trace"]["times"] for reply in grid.pull_messages(ids)] == [n + 2 for n in before]
    assert times(grid) == [n + 3 for n in before]


def test_nodes_are_told_of_in_the_order_of_their_ids(grid):
    assert [node.node_id for node in grid.get_nodes()] == list(grid.get_node_ids()) == [2, 3, 4]


def test_another_run_starts_with_no_state(grid):
    times(grid)
    grid.restart({"rounds": "3"})
    assert times(grid) == [1] * NODES


def test_a_client_that_raises_leaves_no_trace_in_its_state(grid):
    before = times(grid)
    assert all(reply.has_error() for reply in ask(grid, "query.count", fail=True))
    assert times(grid) == [n + 1 for n in before]


def test_a_client_cannot_change_the_run_config_of_its_next_message(grid):
    ask(grid, "query.count", reconfigure=True)
    assert [reply.content["trace"]["mine"] for reply in ask(grid, "query.count")] == [0] * NODES


def test_a_client_that_changes_the_run_config_is_refused(grid):
    before = times(grid)
    errors = [reply.error for reply in ask(grid, "query.count", reconfigure=True)]
    assert {error.code for error in errors} == {ErrorCode.UNKNOWN}
    assert all("run_config" in error.reason for error in errors)
    assert times(grid) == [n + 1 for n in before]


def test_a_reply_that_comes_after_its_messages_time_to_live_is_an_error(grid, request):
    if isinstance(grid, LocalGrid):
        request.getfixturevalue("clock")
    replies = ask(grid, "query.count", ttl=3.0, seconds=3.5)
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert replies[1].error.code == ErrorCode.MESSAGE_UNAVAILABLE


def test_a_message_without_a_time_to_live_waits_as_long_as_it_takes(grid):
    replies = ask(grid, "query.count", seconds=0.3)
    assert not any(reply.has_error() for reply in replies)
