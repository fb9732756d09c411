"""Checkpoints: a run that goes on ends with the bits of one that was never interrupted; damage is recognised."""

import gc
import json
import logging
import random
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
)

from fedlab.engine.aggregation.rounds import run_rounds
from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.persistence import checkpoint
from fedlab.engine.persistence.checkpoint import Checkpoints
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput

NODES = 5
ROUNDS = 5
SMALL = {"min_available_nodes": 1, "min_train_nodes": 1, "fraction_train": 0.6, "min_evaluate_nodes": 2}
START = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2)}


@pytest.fixture(autouse=True)
def quick_and_quiet():
    logging.getLogger("flwr").setLevel(logging.ERROR)
    gc.freeze()  # QFedAvg and Bulyan collect garbage at every reply: let them look at theirs alone
    yield
    gc.unfreeze()


def grid(tell=lambda *_, **__: None) -> MeteredGrid:
    """Clients that count their turns and draw from every global generator."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context) -> Message:
        turns = context.state["seen"]["turns"] + 1 if "seen" in context.state else 1
        context.state["seen"] = MetricRecord({"turns": turns})
        noise = random.gauss(0, 1) + np.random.normal() + float(torch.randn(1))  # noqa: NPY002
        moved = from_record(message.content["arrays"])
        moved = {n: (a + noise + turns * context.node_id).astype(a.dtype) for n, a in moved.items()}
        metrics = MetricRecord({"num-examples": 10 + context.node_id, "loss": abs(noise)})
        return Message(RecordDict({"arrays": to_record(moved), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context) -> Message:
        metrics = MetricRecord({"num-examples": 1, "noise": random.random(), "turns": len(context.state)})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return MeteredGrid(LocalGrid(app, NODES), tell)


def run(strategy, rounds=ROUNDS, checkpoints=None, seed=3, tell=lambda *_, **__: None):
    """Everything that must be the same in the end, and what was told on the way."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    metered = grid(tell)
    history = run_rounds(
        strategy,
        metered,
        to_record(START),
        rounds,
        evaluate=lambda _, arrays: {"norm": float(np.abs(from_record(arrays)["w"]).sum())},
        checkpoints=checkpoints,
    )
    return (
        {name: (array.dtype, array.tobytes()) for name, array in from_record(history.arrays).items()},
        (history.metrics, dict(history.federated), history.rounds, history.failures),
        (metered.traffic.bytes_up, metered.traffic.bytes_down),
        metered.node_states(),
        (random.random(), np.random.random(), torch.rand(1).item()),  # noqa: NPY002
    )


KINDS = {
    kind.__name__: lambda kind=kind, **more: kind(**SMALL, **more)
    for kind in (*(FedAvg, FedAvgM, FedAdam, FedAdagrad, FedYogi, FedMedian, FedTrimmedAvg), *(Krum, MultiKrum, Bulyan))
} | {
    "FedAvgM 0.9": lambda: FedAvgM(**SMALL, server_momentum=0.9),
    "FedProx": lambda: FedProx(**SMALL, proximal_mu=0.1),
    "QFedAvg": lambda: QFedAvg(**SMALL, client_learning_rate=0.1, train_loss_key="loss"),
    "DP fixed": lambda: DifferentialPrivacyServerSideFixedClipping(FedAdam(**SMALL), 0.1, 1.0, 3),
    "DP adaptive": lambda: DifferentialPrivacyServerSideAdaptiveClipping(FedAvg(**SMALL), 0.1, 3),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_run_that_goes_on_ends_with_the_bits_of_one_that_was_never_interrupted(name, tmp_path):
    whole = run(KINDS[name]())
    assert run(KINDS[name](), checkpoints=Checkpoints(tmp_path / "whole", "c")) == whole  # watching changes nothing
    kept = Checkpoints(tmp_path / "part", "c")
    run(KINDS[name](), rounds=3, checkpoints=kept)
    told = []
    again = run(KINDS[name](), checkpoints=kept, seed=99, tell=lambda kind, **f: told.append((kind, f)))
    assert again == whole
    assert [kind for kind, _ in told if kind != "progress"] == ["resume", "round", "round"]
    assert told[0][1] == {"round": 3}


def fedadam() -> FedAdam:
    return FedAdam(**SMALL)


def files(folder: Path) -> list[str]:
    return sorted(path.name.partition(".")[0] for path in folder.iterdir())


def interrupted(folder: Path, rounds: int = 3, **settings) -> Checkpoints:
    checkpoints = Checkpoints(folder, "c", **settings)
    run(fedadam(), rounds=rounds, checkpoints=checkpoints)
    return checkpoints


def newest(folder: Path) -> Path:
    return max(folder.glob("round-*"))


def test_the_last_two_stay_and_as_many_rounds_lie_between_as_asked(tmp_path):
    interrupted(tmp_path / "every")
    assert files(tmp_path / "every") == ["round-000002", "round-000003"]
    interrupted(tmp_path / "other", rounds=5, every=2)
    assert files(tmp_path / "other") == ["round-000002", "round-000004"]
    interrupted(tmp_path / "none", every=None)
    assert not (tmp_path / "none").exists()
    # The last is read all the same where no more are to be written.
    assert Checkpoints(tmp_path / "other", "c", every=None).last_round == 4


def damage(path: Path, how: str, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
        return
    if how == "cut":
        data = data[: rng.randrange(len(data))]
    elif how == "longer":
        data += b"\x00"
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def uninterrupted():
    logging.getLogger("flwr").setLevel(logging.ERROR)
    return run(fedadam())


@pytest.mark.parametrize("how", ["missing", "longer", *["cut"] * 5, *["altered"] * 5])
def test_a_damaged_checkpoint_is_recognised_and_the_one_before_it_is_used(tmp_path, how, uninterrupted, request):
    rng = random.Random(request.node.name)
    interrupted(tmp_path)
    damage(newest(tmp_path), how, rng)
    checkpoints = Checkpoints(tmp_path, "c")
    assert checkpoints.last_round == 2
    assert run(fedadam(), checkpoints=checkpoints, seed=99) == uninterrupted
    assert files(tmp_path) == ["round-000004", "round-000005"]


def test_where_none_is_whole_the_run_begins_again(tmp_path, uninterrupted):
    interrupted(tmp_path)
    for path in tmp_path.iterdir():
        damage(path, "cut", random.Random(0))
    (tmp_path / ".round-000004.0123.safetensors.1-1.tmp").write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path, "c")
    assert checkpoints.last_round is None
    assert run(fedadam(), checkpoints=checkpoints) == uninterrupted


def test_damaged_checkpoints_do_not_push_out_those_of_the_run_that_begins_again(tmp_path, uninterrupted):
    interrupted(tmp_path)
    for path in tmp_path.iterdir():
        damage(path, "cut", random.Random(0))
    run(fedadam(), rounds=1, checkpoints=Checkpoints(tmp_path, "c"))
    assert files(tmp_path) == ["round-000001"]
    assert run(fedadam(), checkpoints=Checkpoints(tmp_path, "c"), seed=99) == uninterrupted


def test_what_a_kill_left_half_written_is_swept_away(tmp_path):
    interrupted(tmp_path)
    half = tmp_path / ".round-000004.0123.safetensors.1-1.tmp"
    half.write_bytes(b"half")
    run(fedadam(), checkpoints=Checkpoints(tmp_path, "c"))
    assert not half.exists()


def test_a_full_disk_is_one_message_and_the_former_checkpoint_stays_whole(tmp_path, uninterrupted):
    checkpoints = interrupted(tmp_path)
    size = newest(tmp_path).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        with pytest.raises(BadInput, match=r"cannot write .*round-000004.* Free some space"):
            run(fedadam(), checkpoints=checkpoints)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == ["round-000002", "round-000003"]
    assert run(fedadam(), checkpoints=Checkpoints(tmp_path, "c")) == uninterrupted


def test_a_checkpoint_of_other_settings_or_another_format_is_refused(tmp_path, monkeypatch):
    interrupted(tmp_path)
    with pytest.raises(BadInput, match="of another experiment or of other settings: continue the run it belongs"):
        run(fedadam(), checkpoints=Checkpoints(tmp_path, "d"))
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(BadInput, match=r"was written in format 1, this version reads 2: .*manifest\.json"):
        run(fedadam(), checkpoints=Checkpoints(tmp_path, "c"))


def test_a_checkpoint_of_another_strategy_is_refused(tmp_path):
    interrupted(tmp_path)
    with pytest.raises(BadInput, match="holds a FedAdam where this run has a FedAvg"):
        run(FedAvg(**SMALL), checkpoints=Checkpoints(tmp_path, "c"))


def test_a_result_is_kept_until_it_is_forgotten(tmp_path):
    checkpoints = Checkpoints(tmp_path / "a", "c")
    assert checkpoints.result() is None
    checkpoints.finish({"result": {"accuracy": 0.5, "none": None}, "model": to_record(START)})
    kept = checkpoints.result()
    assert kept is not None and kept["result"] == {"accuracy": 0.5, "none": None}
    assert from_record(kept["model"])["w"].tobytes() == START["w"].tobytes()
    damage(next((tmp_path / "a").iterdir()), "altered", random.Random(0))
    assert checkpoints.result() is None
    (tmp_path / "a" / "mine.txt").write_text("not a checkpoint")
    checkpoints.forget()
    assert files(tmp_path / "a") == ["mine"]


def test_what_cannot_be_kept_is_said_once(tmp_path):
    class Locked(FedAvg):
        def __init__(self):
            super().__init__(**SMALL)
            self.lock = threading.Lock()

    told = []
    run(Locked(), checkpoints=Checkpoints(tmp_path, "c"), tell=lambda kind, **f: told.append(f.get("message")))
    assert [m for m in told if m] == ["a checkpoint cannot keep strategy.lock: a resumed run has it as it began"]


def test_anyone_can_read_a_checkpoint(tmp_path):
    from safetensors import safe_open

    interrupted(tmp_path)
    with safe_open(newest(tmp_path), "numpy") as file:
        assert {"strategy.m_t.w", "strategy.v_t.w", "strategy.current_arrays.w", "history.arrays.w"} <= {*file.keys()}
        assert json.loads(file.metadata()["state"])


def test_where_no_round_is_left_nothing_runs_and_the_seconds_are_those_of_before(tmp_path):
    def last(metered: MeteredGrid):
        return run_rounds(fedadam(), metered, to_record(START), 3, checkpoints=Checkpoints(tmp_path, "c"))

    first = last(grid())
    told = []
    again = last(grid(lambda kind, **fields: told.append(kind)))
    assert told == ["resume"]
    assert (again.rounds, again.elapsed, again.seconds) == (3, first.elapsed, first.seconds)
    assert from_record(again.arrays)["w"].tobytes() == from_record(first.arrays)["w"].tobytes()
