"""Many clients in one call: the same replies, and whatever stands in the way means one by one."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from fedlab.engine.messages.broadcast import Broadcast
from fedlab.engine.messages.partial_sums import ArraySum, stands_for
from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.simulation.batched_app import BatchedClientApp, ClientBatch
from fedlab.engine.simulation.faults import Corrupt
from fedlab.engine.simulation.local_grid import LocalGrid


def make_app(calls: list[tuple[str, int]], **kwargs) -> BatchedClientApp:
    app = BatchedClientApp(**kwargs)

    def content(partition: int) -> RecordDict:
        return RecordDict({"arrays": to_record({"a": np.full(2, float(partition))})})

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        calls.append(("one", 1))
        settings = message.content.config_records["config"]
        if partition == settings.get("fails"):
            raise ValueError("no such sample: 42")
        if settings.get("remembers"):
            context.state["seen"] = MetricRecord({"times": 1})
        return Message(content(partition), reply_to=message)

    @app.together("train")
    def train_together(batch: ClientBatch) -> list[RecordDict] | None:
        calls.append(("together", len(batch.partitions)))
        settings = batch.content.config_records["config"]
        if "fails" in settings:
            raise ValueError("someone fails")
        settings["mine"] = 1  # a client may change what it was sent
        return None if settings.get("remembers") else [content(p) for p in batch.partitions]

    @app.in_total("train")
    def train_in_total(batch: ClientBatch) -> tuple[RecordDict, int] | None:
        calls.append(("in total", len(batch.partitions)))
        if "fails" in batch.content.config_records["config"]:
            raise ValueError("someone fails")
        total = float(sum(batch.partitions))
        return RecordDict({"arrays": to_record({"a": np.full(2, total)})}), 144 * len(batch.partitions)

    return app


def ask(grid: LocalGrid, **config) -> Broadcast:
    content = RecordDict({"arrays": ArrayRecord(), "config": ConfigRecord(config)})
    return Broadcast(content, list(grid.get_node_ids()), "train")


def values(replies) -> list[float]:
    return [float(from_record(reply.content["arrays"])["a"][0]) for reply in replies]


def test_the_replies_of_a_chunk_are_made_in_one_call():
    calls = []
    grid = LocalGrid(make_app(calls), 7, chunk=3)
    messages = ask(grid)
    assert values(grid.stream(messages)) == [0, 1, 2, 3, 4, 5, 6]
    assert calls == [("together", 3), ("together", 3), ("together", 1)]
    assert values(grid.stream(list(messages))) == [0, 1, 2, 3, 4, 5, 6]  # a list that shares one content too
    assert "mine" not in messages.content.config_records["config"]


def test_a_sum_is_made_in_one_call_where_the_app_has_one():
    calls = []
    grid = LocalGrid(make_app(calls), 7, chunk=3)
    summed = list(grid.stream(ask(grid), partial_sum=ArraySum))
    assert values(summed) == [3, 12, 6] and [stands_for(r) for r in summed] == [(3, 432), (3, 432), (1, 144)]
    assert {kind for kind, _ in calls} == {"in total"}


@pytest.mark.parametrize("addition", [None, ArraySum])
def test_where_one_fails_each_is_asked_by_itself_and_the_culprit_is_named(partial_sum):
    calls = []
    grid = LocalGrid(make_app(calls), 7, chunk=7)
    replies = list(grid.stream(ask(grid, fails=3), partial_sum=partial_sum))
    errors = [r for r in replies if r.has_error()]
    assert [r.metadata.src_node_id for r in errors] == [5] and "no such sample: 42" in errors[0].error.reason
    assert sum(values(r for r in replies if r.has_content())) == 18
    assert calls.count(("one", 1)) == 7


def test_clients_that_remember_something_are_asked_one_by_one():
    calls = []
    grid = LocalGrid(make_app(calls), 4, chunk=4)
    assert values(grid.stream(ask(grid, remembers=1))) == [0, 1, 2, 3]  # declined by the app
    calls.clear()
    assert values(grid.stream(ask(grid))) == [0, 1, 2, 3]
    assert calls == [("one", 1)] * 4


def test_mods_faults_and_different_contents_mean_one_by_one():
    calls = []
    seen = []

    def mod(message, context, call_next):
        seen.append(context.node_id)
        return call_next(message, context)

    grid = LocalGrid(make_app(calls, mods=[mod]), 3, chunk=3)
    assert values(grid.stream(ask(grid))) == [0, 1, 2] and seen == [2, 3, 4]
    grid = LocalGrid(make_app(calls), 3, chunk=3, faults=[Corrupt(1e-9)])
    assert values(grid.stream(ask(grid))) == [0, 1, 2]
    grid = LocalGrid(make_app(calls), 3, chunk=3)
    messages = [ask(grid)[i] for i in range(3)]
    messages[1] = Message(RecordDict({"config": ConfigRecord({"other": 1})}), 3, "train")
    assert values(grid.stream(messages)) == [0, 1, 2]
    assert set(calls) == {("one", 1)}
