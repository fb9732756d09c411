"""Sums made where the replies are: same sum, same bits on any number of workers, errors still one by one."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from clients.aefocl import AEFOCL
from clients.air import AIR
from fedlab.analytic import RandomReLU
from fedlab.engine.messages.broadcast import Broadcast
from fedlab.engine.messages.partial_sums import ArraySum, StatisticsSum, stands_for
from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.simulation.host import partition_of
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.engine.simulation.simulated import SimulatedGrid
from fedlab.errors import BadInput
from fedlab.stats import ClassCounts, ClassWeights, GramStats, pack, unpack
from tests.draws import samples
from tests.tolerance import FLOAT64, assert_near


def reply(a: np.ndarray, **metrics: float) -> RecordDict:
    return RecordDict({"arrays": to_record({"a": a}), "metrics": MetricRecord(metrics)})


def to_all(grid: SimulatedGrid, message_type: str = "train", **config: object) -> Broadcast:
    content = RecordDict(
        {"arrays": to_record({"w": np.arange(6.0)}), "config": ConfigRecord(config)}  # pyright: ignore[reportArgumentType]
    )
    return Broadcast(content, list(grid.get_node_ids()), message_type)


def test_the_sum_is_that_of_the_replies_one_by_one(grid):
    one_by_one = list(grid.stream(to_all(grid)))
    summed = list(grid.stream(to_all(grid), partial_sum=ArraySum))
    assert len(one_by_one) == grid.num_nodes
    assert [stands_for(r)[0] for r in summed] == [grid.chunk] * (grid.num_nodes // grid.chunk) + (
        [grid.num_nodes % grid.chunk] if grid.num_nodes % grid.chunk else []
    )
    for key in ("num-examples", "loss"):
        expected = sum(r.content["metrics"][key] for r in one_by_one)
        assert sum(r.content["metrics"][key] for r in summed) == pytest.approx(expected, rel=1e-12)
    expected = sum(from_record(r.content["arrays"])["w"] for r in one_by_one)
    total = sum(from_record(r.content["arrays"])["w"] for r in summed)
    assert_near(total, expected, grid.num_nodes, FLOAT64)  # the same sum in another order


@pytest.mark.slow
def test_float_sums_have_the_same_bits_on_any_number_of_workers(app, ray_runtime):
    from fedlab.engine.simulation.ray_grid import RayGrid

    grids = [LocalGrid(app, 7, chunk=2)]
    grids += [RayGrid(app, 7, num_workers=n, cpus_per_worker=0.5, chunk=2) for n in (1, 3)]
    bits = set()
    for grid in grids:
        with grid:
            sums = [from_record(r.content["arrays"])["w"] for r in grid.stream(to_all(grid), partial_sum=ArraySum)]
            bits.add(b"".join(array.tobytes() for array in sums))
    assert len(bits) == 1


def test_an_error_is_never_part_of_a_sum(grid):
    replies = list(grid.stream(to_all(grid, "query.fail", partition=3), partial_sum=ArraySum))
    errors = [r for r in replies if r.has_error()]
    assert [partition_of(r.metadata.src_node_id) for r in errors] == [3]
    assert "no such sample: 42" in errors[0].error.reason
    assert sum(stands_for(r)[0] for r in replies if not r.has_error()) == grid.num_nodes - 1


def test_traffic_and_progress_are_those_of_the_clients(grid):
    counted = []
    for partial_sum in (None, ArraySum):
        said = []
        metered = MeteredGrid(grid, lambda kind, said=said, **fields: said.append((kind, fields)))
        list(metered.stream(to_all(grid), partial_sum=partial_sum))
        counted.append((metered.traffic.bytes_up, metered.traffic.bytes_down, said[-1]))
    assert counted[0] == counted[1]
    assert counted[0][2] == ("progress", {"done": grid.num_nodes, "total": grid.num_nodes})


@pytest.mark.parametrize(
    "other",
    [
        reply(np.zeros(3)),
        reply(np.zeros(2, np.float32)),
        reply(np.zeros(2), more=1.0),
        RecordDict({"arrays": ArrayRecord({"b": Array(np.zeros(2))})}),
    ],
    ids=["shape", "type", "metrics", "names"],
)
def test_what_cannot_be_added_is_refused_and_the_sum_stays(other):
    total = ArraySum()
    total.add(reply(np.ones(2)))
    with pytest.raises(BadInput, match="cannot be added"):
        total.add(other)
    total.add(reply(np.ones(2)))
    assert from_record(total.content()["arrays"])["a"].tolist() == [2.0, 2.0]


def test_lists_of_metrics_are_added_entry_by_entry():
    total = ArraySum()
    for value in (1.0, 2.0):
        total.add(RecordDict({"metrics": MetricRecord({"hits": [value, 10.0], "n": 1})}))
    assert dict(total.content()["metrics"]) == {"hits": [3.0, 20.0], "n": 2}


def test_statistics_that_are_none_are_refused():
    with pytest.raises(BadInput, match="expected packed statistics under 'arrays'"):
        StatisticsSum().add(RecordDict({"metrics": MetricRecord({"a": 1})}))


def test_a_reply_speaks_for_itself_unless_it_says_otherwise(grid):
    message = to_all(grid)[0]
    assert stands_for(Message(RecordDict(), reply_to=message)) == (1, None)


@pytest.mark.parametrize("kind", ["AIR", "AEFOCL", "two rounds", "weighted"])
def test_statistics_of_every_kind_are_added_where_they_are_made(kind):
    x, labels = samples(40, 5, 3)
    weights = {"class_weights": np.array(ClassWeights.tempered([9, 2, 30]).values)}
    form = "per_class" if kind == "AIR" else "two_rounds"
    model = AEFOCL(3, RandomReLU(8)) if kind == "AEFOCL" else AIR(3, RandomReLU(8), form=form)
    arrays = weights if kind == "weighted" else {}
    blocks, everyone = [StatisticsSum(), StatisticsSum()], StatisticsSum()
    for k, (part, y) in enumerate(zip(x.split(3), labels.split(3), strict=True)):
        answer, _ = model.train(arrays, {}, part, y, 0)
        blocks[k % 2].add(RecordDict({"arrays": to_record(answer)}))
    for block in blocks:
        everyone.add(block.content())
    found = unpack(from_record(everyone.content()["arrays"]))
    expected = unpack(model.train(arrays, {}, x, labels, 0)[0])
    assert type(found) is type(expected) and found.class_counts.tolist() == expected.class_counts.tolist()
    assert isinstance(found, ClassCounts) or found.sha256 == expected.sha256
    before = everyone.content()
    with pytest.raises(BadInput):
        everyone.add(RecordDict({"arrays": to_record(pack(GramStats.zeros(8, 4)))}))
    assert all(
        np.array_equal(a, b)
        for a, b in zip(
            from_record(before["arrays"]).values(), from_record(everyone.content()["arrays"]).values(), strict=True
        )
    )
