import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedlab.engine.messages.records import content_bytes, to_record
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from tests.engine.conftest import WAIT


class Elsewhere(MeteredGrid):
    """Stands for Flower's own Grid: it has no stream."""

    def __init__(self, grid: LocalGrid):
        super().__init__(grid)
        self._inner = grid

    def send_and_receive(self, messages, *, timeout=None):
        return self._inner.send_and_receive(messages, timeout=timeout)

    stream = None  # pyright: ignore


@pytest.fixture(params=["simulated", "any grid"])
def metered(request, app) -> MeteredGrid:
    local = LocalGrid(app, 4)
    inner: Grid = local if request.param == "simulated" else Elsewhere(local)
    return MeteredGrid(inner)


def training(grid: Grid) -> list[Message]:
    content = RecordDict({"arrays": to_record({"w": np.zeros(50)}), "config": ConfigRecord()})
    return [Message(content, node, "train") for node in grid.get_node_ids()]


@pytest.mark.parametrize("how", ["stream", "send_and_receive", "push and pull"])
def test_bytes_are_counted_both_ways_however_they_travel(metered, how):
    messages = training(metered)
    down = sum(content_bytes(message.content) for message in messages)
    if how == "push and pull":
        replies = list(metered.pull_messages(metered.push_messages(messages)))
    else:
        replies = list(getattr(metered, how)(messages))
    assert metered.traffic.bytes_down == down > 4 * 400
    assert metered.traffic.bytes_up == sum(content_bytes(reply.content) for reply in replies) > 4 * 400


def test_progress_is_told_after_every_reply(metered):
    told = []
    metered.emit = lambda kind, **fields: told.append((kind, fields["done"], fields["total"]))
    list(metered.stream(training(metered)))
    assert told == [("progress", done, 4) for done in (1, 2, 3, 4)]


def test_errors_weigh_nothing_but_are_passed_on(metered):
    replies = list(metered.stream([Message(RecordDict(), node, "query.leave") for node in metered.get_node_ids()]))
    assert all(reply.has_error() for reply in replies) and len(replies) == 4
    assert metered.traffic.bytes_up == 0


def test_the_readers_own_time_is_not_waiting(app, ask, clock, tmp_path):
    metered = MeteredGrid(LocalGrid(app, 4))
    for _ in metered.stream(ask(metered, "wait", file=str(tmp_path / "never"))):
        clock.skip(10)
    assert metered.traffic.seconds == pytest.approx(WAIT)


def test_clients_are_named_by_partition_only_where_they_are_simulated(app):
    local = LocalGrid(app, 4)
    assert MeteredGrid(local).client_name(5) == "3"
    assert MeteredGrid(Elsewhere(local)).client_name(5) == "on node 5"


def test_everything_else_is_the_grids(app):
    local = LocalGrid(app, 2)
    metered = MeteredGrid(local)
    assert metered.run is local.run and list(metered.get_node_ids()) == [2, 3]
    metered.set_run(local.run)
    assert metered.create_message(RecordDict(), "train", 2, "g").metadata.group_id == "g"
