import gc

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from safetensors.numpy import load_file

from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.errors import BadInput
from fedlab.stats import FixedPoint, GramStats, pack, total_of, unpack
from strategies.afl import AFL
from tests.draws import FIXED, gap, same, statistics

D, C = 6, 3
MODES = pytest.mark.parametrize("fixed", [None, FIXED], ids=["float64", "exact"])


def held_by(partition, fixed=FIXED):
    """What a client of these tests holds; every third has no sample."""
    return statistics(partition % 3 * 4, D, C, partition, fixed)


def replies(strategy, answer, clients=10):
    """Ask `clients` nodes; node k answers with answer(k), made when it is asked for."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        content = RecordDict({"arrays": to_record(answer(int(context.node_config["partition-id"])))})
        return Message(content, reply_to=message)

    grid = LocalGrid(app, clients)
    return grid.stream(strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid))


def head(arrays):
    return torch.from_numpy(from_record(arrays)["weight"].copy())


# -- the law -----------------------------------------------------------------------------------------------


@MODES
def test_the_head_is_the_centralised_one_whatever_the_order(fixed):
    strategy = AFL(ridge=0.5)
    joint = total_of(held_by(k, fixed) for k in range(10))
    forward = list(replies(strategy, lambda k: pack(held_by(k, fixed))))
    for order in (forward, forward[::-1], forward[5:] + forward[:5]):
        arrays, metrics = strategy.aggregate_train(1, iter(order))
        assert arrays is not None and metrics is None and list(arrays) == ["weight"]
        assert strategy.statistics is not None and strategy.statistics.count == joint.count
        if fixed is not None:
            assert same(strategy.statistics, joint) and torch.equal(head(arrays), joint.solve(0.5))
        assert gap(strategy.statistics, joint) <= 1e-12
        assert torch.allclose(head(arrays), joint.solve(0.5), rtol=0, atol=1e-10)


def test_survivors_of_a_dropout_are_centralised_on_the_survivors():
    strategy = AFL(ridge=0.5)
    survivors = list(replies(strategy, lambda k: pack(held_by(k))))[::2]
    arrays, _ = strategy.aggregate_train(1, survivors)
    joint = total_of(held_by(k) for k in range(0, 10, 2))
    assert strategy.statistics is not None and arrays is not None
    assert same(strategy.statistics, joint) and torch.equal(head(arrays), joint.solve(0.5))


def test_every_node_is_asked_once_for_nothing_but_its_answer():
    strategy = AFL()
    grid = LocalGrid(ClientApp(), 4)
    messages = list(strategy.configure_train(1, ArrayRecord(), ConfigRecord({"server-round": 1}), grid))
    assert [m.metadata.dst_node_id for m in messages] == list(grid.get_node_ids())
    assert all(len(m.content.array_records["arrays"]) == 0 for m in messages)
    assert all(m.content.config_records["config"]["server-round"] == 1 for m in messages)
    assert list(strategy.configure_evaluate(1, ArrayRecord(), ConfigRecord(), grid)) == []
    assert strategy.aggregate_evaluate(1, []) is None


# -- refusals ----------------------------------------------------------------------------------------------


def without(name):
    packed = pack(held_by(4))
    packed.pop(name)
    return packed


def hit():
    packed = pack(statistics(1, D, C, fixed=FIXED))
    packed["factor"] = packed["factor"] + 0.4
    return packed


BAD = {
    "another width": (lambda: pack(statistics(5, D + 1, C, fixed=FIXED)), "6 features with statistics over 7"),
    "more classes": (lambda: pack(statistics(5, D, C + 1, fixed=FIXED)), "3 classes with statistics over 4"),
    "another mode": (lambda: pack(statistics(5, D, C)), r"scale 2047\.0 with scale None"),
    "no statistics": (dict, "packed statistics hold"),
    "a missing part": (lambda: without("cross"), "packed statistics hold"),
    "a damaged part": (hit, "packed statistics: factor"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("culprit", [1, 7])
def test_a_reply_that_does_not_fit_is_refused_by_name(name, culprit):
    spoil, message = BAD[name]
    strategy = AFL(ridge=0.5)
    answers = list(replies(strategy, lambda k: spoil() if k == culprit else pack(held_by(k))))
    node = answers[culprit].metadata.src_node_id
    with pytest.raises(BadInput, match=rf"the reply of node {node} was refused: .*{message}"):
        strategy.aggregate_train(1, answers)
    assert strategy.statistics is None and strategy.solution is None and strategy.report() == {}
    # The others' replies are as good as before: the same strategy solves them without the culprit.
    strategy.aggregate_train(1, answers[:culprit] + answers[culprit + 1 :])
    assert strategy.statistics is not None
    assert same(strategy.statistics, total_of(held_by(k) for k in range(10) if k != culprit))


def test_a_refusal_leaves_the_former_result():
    strategy = AFL(ridge=0.5)
    good = list(replies(strategy, lambda k: pack(held_by(k))))
    strategy.aggregate_train(1, good)
    kept = strategy.report()
    bad = list(replies(strategy, lambda k: {}, clients=1))
    with pytest.raises(BadInput, match="was refused"):
        strategy.aggregate_train(2, good[:3] + bad)
    assert strategy.report() == kept


def test_a_reply_without_arrays_is_refused_by_name():
    strategy = AFL()
    app = ClientApp()

    @app.train()
    def train(message, context):
        return Message(RecordDict({"metrics": MetricRecord({"loss": 1.0})}), reply_to=message)

    grid = LocalGrid(app, 1)
    answers = grid.stream(strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid))
    with pytest.raises(BadInput, match=r"the reply of node 2 was refused: it holds \['metrics'\]"):
        strategy.aggregate_train(1, answers)


def test_no_reply_at_all():
    with pytest.raises(BadInput, match="no client has answered"):
        AFL().aggregate_train(1, [])


# -- keeping clients ---------------------------------------------------------------------------------------


@MODES
def test_kept_clients_can_be_subtracted(fixed, tmp_path):
    strategy = AFL(ridge=0.5, keep_clients=str(tmp_path / "new" / "clients"))
    answers = list(replies(strategy, lambda k: pack(held_by(k, fixed))))
    strategy.aggregate_train(1, answers)
    files = sorted((tmp_path / "new" / "clients").glob("[0-9]*"))
    assert sorted(f.name for f in files) == sorted(f"{a.metadata.src_node_id}.safetensors" for a in answers)
    assert strategy.statistics is not None
    for k in (0, 4, 8):
        kept = unpack(load_file(tmp_path / "new" / "clients" / f"{answers[k].metadata.src_node_id}.safetensors"))
        left = strategy.statistics - kept
        rest = total_of(held_by(other, fixed) for other in range(10) if other != k)
        assert same(left, rest) if fixed else gap(left, rest) <= 1e-12
        assert torch.allclose(left.solve(0.5), rest.solve(0.5), rtol=0, atol=0 if fixed else 1e-10)


def test_without_a_directory_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    strategy = AFL()
    strategy.aggregate_train(1, replies(strategy, lambda k: pack(held_by(k))))
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    strategy = AFL(keep_clients=str(tmp_path / "file"))
    with pytest.raises(BadInput, match=rf"keep_clients={tmp_path}/file cannot be written"):
        strategy.aggregate_train(1, replies(strategy, lambda k: pack(held_by(k))))


# -- memory and report -------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
def test_server_memory_does_not_grow_with_the_clients(keep, tmp_path):
    strategy = AFL(ridge=0.5, keep_clients=str(tmp_path) if keep else None)
    alive = []

    def answer(k):
        if k in (50, 299):
            things = gc.get_objects()
            alive.append(sum(type(thing) in (GramStats, Message, ArrayRecord) for thing in things))
        return pack(held_by(k))

    app_replies = replies(strategy, answer, clients=300)
    strategy.aggregate_train(1, app_replies)
    assert strategy.streaming and strategy.statistics is not None
    assert strategy.statistics.count == sum(k % 3 * 4 for k in range(300))
    # The 300 requests stay; replies and statistics are gone when the next client is asked, but for a few that
    # the garbage collector has not seen yet. Kept, they would be 249 more of each.
    assert alive[1] <= alive[0] + 20


def test_the_report_says_what_the_solve_says():
    strategy = AFL(ridge=0.5)
    assert strategy.report() == {}
    strategy.aggregate_train(1, replies(strategy, lambda k: pack(held_by(k))))
    told = strategy.report()
    joint = total_of(held_by(k) for k in range(10))
    assert told["statistics_sha256"] == joint.sha256
    assert (told["samples"], told["ridge"], told["rank"], told["saturated"]) == (joint.count, 0.5, D, 0)
    assert told["notes"] == []


def test_a_singular_system_and_clipped_features_are_said():
    wide = statistics(2, D, C, fixed=FIXED)
    x = torch.full((2, D), 3.0)
    clipped = GramStats.from_batch(x, torch.eye(C, dtype=torch.float64)[:2], FIXED)
    strategy = AFL(ridge=0.0)
    strategy.aggregate_train(1, replies(strategy, lambda k: pack((wide, clipped)[k]), clients=2))
    singular, saturated = strategy.report()["notes"]  # pyright: ignore
    assert "rank 3 of 6" in singular and "minimum-norm" in singular
    assert "50.0% of the features lay outside the public range" in saturated


def test_features_that_were_rounded_away_are_said():
    x = torch.rand(40, D, dtype=torch.float64)
    y = torch.eye(C, dtype=torch.float64)[torch.arange(40) % C]
    for limit, said in ((1.0, False), (1e5, True), (1e99, True)):
        strategy = AFL(ridge=1.0)
        packed = pack(GramStats.from_batch(x, y, FixedPoint(limit)))
        strategy.aggregate_train(1, replies(strategy, lambda k, packed=packed: packed, clients=1))
        notes = strategy.report()["notes"]
        assert any("rounded away" in note for note in notes) == said, (limit, notes)  # pyright: ignore


def test_gcv_chooses_one_ridge_for_everyone():
    strategy = AFL(ridge="gcv")
    strategy.aggregate_train(1, replies(strategy, lambda k: pack(held_by(k))))
    joint = total_of(held_by(k) for k in range(10)).solution("gcv")
    assert strategy.solution is not None and strategy.solution.ridge == joint.ridge
    assert torch.equal(strategy.solution.weight, joint.weight)
