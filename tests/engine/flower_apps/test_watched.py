"""What an app does is counted, its first failing client is told whole, and a wait without end is ended."""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    FedAvg,
)

from fedlab.engine.flower_apps import watched
from fedlab.engine.flower_apps.watched import WatchedGrid
from fedlab.engine.messages.broadcast import Broadcast
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.errors import BadInput
from tests.engine.conftest import make_app

NODES = 5
fixed = partial(DifferentialPrivacyClientSideFixedClipping, clipping_norm=0.5)


@pytest.fixture
def told() -> list[tuple]:
    return []


@pytest.fixture
def grid(told) -> WatchedGrid:
    return WatchedGrid(LocalGrid(make_app(), NODES), lambda kind, **fields: told.append((kind, fields)))


def messages(grid: WatchedGrid, action: str, **config) -> list[Message]:
    content = RecordDict({"config": ConfigRecord(config)})
    return [Message(content, node, f"query.{action}") for node in grid.get_node_ids()]


def test_progress_is_told_after_every_reply(grid, told):
    list(grid.send_and_receive(messages(grid, "who", **{"server-round": 2})))
    expected = {"what": "query.who", "round": 2, "total": NODES}
    assert told == [("progress", {**expected, "done": done}) for done in range(1, NODES + 1)]
    assert (dict(grid.sent), grid.rounds, grid.errors) == ({"query.who": NODES}, 2, 0)
    told.clear()
    list(grid.send_and_receive(messages(grid, "who")[:1]))
    assert told == [("progress", {"what": "query.who", "round": None, "done": 1, "total": 1})]


def test_a_broadcast_is_counted_and_not_made_into_a_list():
    class Receiver(LocalGrid):
        def stream(self, messages, **options):
            assert isinstance(messages, Broadcast)
            return super().stream(messages, **options)

    grid = WatchedGrid(Receiver(make_app(), NODES))
    assert len(list(grid.stream(Broadcast(RecordDict(), grid.get_node_ids(), "query.who")))) == NODES
    assert grid.sent["query.who"] == NODES


def test_pushed_messages_and_pulled_replies_are_counted(grid, told):
    ids = list(grid.push_messages(messages(grid, "fail", partition=3)))
    assert (grid.sent["query.fail"], grid.errors) == (NODES, 0)
    assert len(list(grid.pull_messages(ids))) == NODES
    assert grid.errors == 1 and [kind for kind, _ in told] == ["failed"]


def test_the_first_traceback_is_told_and_the_strategy_gets_a_line_of_each(grid, told):
    replies = list(grid.send_and_receive([m for m in messages(grid, "fail", partition=1) for _ in range(3)]))
    assert [reply.has_error() for reply in replies] == [False] * 3 + [True] * 3 + [False] * 9
    assert {reply.error.reason for reply in replies if reply.has_error()} == {"ValueError: no such sample: 42"}
    (failed,) = [fields for kind, fields in told if kind == "failed"]
    assert failed["client"] == "1" and failed["reason"].startswith("Traceback") and "in fail" in failed["reason"]
    assert grid.errors == 3


def test_threads_may_share_it(grid, told):
    with ThreadPoolExecutor(4) as pool:
        answered = pool.map(lambda message: len(list(grid.send_and_receive([message]))), messages(grid, "who") * 20)
        assert sum(answered) == 20 * NODES
    assert grid.sent["query.who"] == 20 * NODES
    assert all(0 < fields["done"] <= fields["total"] for _, fields in told)


def private_run(told, mods, kind, lift: float = 0.0) -> None:
    app = ClientApp()

    @app.train(mods=mods)
    def train(message: Message, context: Context) -> Message:
        moved = [array + np.float32(3.0) for array in message.content["arrays"].to_numpy_ndarrays()]
        content = {"arrays": ArrayRecord(moved), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    grid = WatchedGrid(LocalGrid(app, NODES), lambda kind, **fields: told.append((kind, fields)))
    strategy = kind(FedAvg(fraction_evaluate=0.0), noise_multiplier=0.0, num_sampled_clients=NODES)
    strategy.start(grid, ArrayRecord([np.full((4, 4), lift, np.float32)]), num_rounds=2)


@pytest.mark.parametrize("lift", [0.0, 1e6])
def test_clients_that_clip_are_trusted(told, lift):
    private_run(told, [fixedclipping_mod], fixed, lift)
    private_run(told, [adaptiveclipping_mod], DifferentialPrivacyClientSideAdaptiveClipping, lift)
    # Clipped by the server: no client is trusted.
    private_run(told, [], DifferentialPrivacyServerSideAdaptiveClipping, lift)
    assert {kind for kind, _ in told} == {"progress"}


def test_clients_that_do_not_clip_are_found_out_once(told):
    private_run(told, [], fixed)
    (warning,) = [fields["message"] for kind, fields in told if kind == "warning"]
    # Sixteen numbers, each moved by 3.
    assert re.search(r"clip their updates to 0.5, but client \d sent one of norm 12: differential pri", warning)


def test_a_strategy_that_wants_more_nodes_than_there_are_does_not_wait_for_ever(grid, monkeypatch, clock):
    monkeypatch.setattr("flwr.serverapp.strategy.strategy_utils.sleep", clock.skip)
    strategy = FedAvg(min_available_nodes=NODES + 1)
    with pytest.raises(BadInput, match=f"more than the {NODES} there are; give it more .--nodes"):
        list(strategy.configure_train(1, RecordDict(), ConfigRecord(), grid))  # pyright: ignore


def test_who_sends_messages_or_only_looks_does_not_wait(grid, monkeypatch):
    monkeypatch.setattr(watched, "RETRY_FOR", 0.0)
    for _ in range(4):  # never more than 5 questions between two messages
        assert len(list(grid.get_node_ids())) == NODES
        assert len(list(grid.send_and_receive(messages(grid, "who")))) == NODES
    # Flower's older apps look for nodes all the time, in a thread of their own.
    with ThreadPoolExecutor(1) as pool:
        assert [len(list(pool.submit(grid.get_node_ids).result())) for _ in range(20)] == [NODES] * 20
