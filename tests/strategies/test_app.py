"""The ServerApp and the ClientApp together, on LocalGrid: digits, five clients."""

import json
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from safetensors.numpy import load_file

from clients.app import app as client_app
from fedlab import world
from fedlab.data.partition import Dirichlet
from fedlab.data.sources.catalogue import Digits
from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput, ClientFailed
from fedlab.features.backbones import Identity
from fedlab.tracking.outcome import PHASES, Outcome
from strategies.app import app as server_app
from strategies.app import digest

CLIENTS = 5


def config(**changes: Any) -> dict[str, Any]:
    return {
        "source": {"_target_": "fedlab.data.sources.Digits", "split": "stratified", "seed": 0},
        "partition": {"_target_": "fedlab.data.partition.Dirichlet", "alpha": 0.1},
        "backbone": {"_target_": "fedlab.features.backbones.Identity"},
        "clients": CLIENTS,
        "seed": 0,
        "device": "cpu",
        "tolerate": 0.0,
        "timeout": None,
        "connect_timeout": 0.0,
        "strategy": {"_target_": "strategies.afl.AFL", "ridge": 1.0},
        "client": {"_target_": "clients.afl.AFL"},
        "rounds": 1,
        **changes,
    }


def fedavg(**changes: Any) -> dict[str, Any]:
    strategy = {
        "_target_": "flwr.serverapp.strategy.FedAvg",
        "fraction_evaluate": 0.0,
        "min_available_nodes": 1,
        **changes.pop("strategy", {}),
    }
    return config(strategy=strategy, client={"_target_": "clients.sgd.SGD", "learning_rate": 0.5}, rounds=2, **changes)


def run(settings: dict[str, Any], nodes: int = CLIENTS, emit=None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    shown = {"config": json.dumps(settings)}
    context = Context(0, 1, {}, RecordDict(), dict(shown))
    with LocalGrid(client_app, nodes, shown) as grid:
        server_app(MeteredGrid(grid, emit) if emit else grid, context)
    result = json.loads(str(context.state["result"]["json"]))
    return result, from_record(context.state["model"])  # pyright: ignore[reportArgumentType]


def test_afl_leaves_its_result_and_its_model():
    result, model = run(config())
    assert result["accuracy"] > 0.9 and result["rounds"] == 1 and result["clients"] == CLIENTS
    assert model["weight"].shape == (64, 10)
    assert result["head_sha256"] == digest(to_record(model))
    assert result["metrics"]["samples"] == 1437
    # A packed triangle of 64 x 64 and 64 x 10 sums, or fewer bytes where a client has fewer rows.
    assert 1_000 < result["bytes_up_per_client"] < 64 * 64 * 8
    assert set(result) == {field.name for field in fields(Outcome)}
    assert set(result["seconds"]) == set(PHASES)
    assert result["faults"] == {"failed": {}, "restarts": 0}


def test_afl_is_the_same_bits_for_one_client_and_for_five():
    one, five = run(config(clients=1), nodes=1)[0], run(config())[0]
    assert one["head_sha256"] == five["head_sha256"]
    assert one["statistics_sha256"] == five["statistics_sha256"]


def test_fedavg_learns_and_repeats_itself_bit_for_bit():
    (first, _), (second, _) = run(fedavg()), run(fedavg())
    assert first["accuracy"] > 0.5 and first["rounds"] == 2
    assert first["head_sha256"] == second["head_sha256"]
    assert run(fedavg(seed=1))[0]["head_sha256"] != first["head_sha256"]


def test_clients_evaluate_where_the_strategy_asks_them_to():
    result, model = run(fedavg(strategy={"fraction_evaluate": 1.0, "min_evaluate_nodes": 1}))
    # By hand: every sample is some client's own, so the weighted mean is the accuracy on all of them.
    everyone = world.build(Digits(split="stratified", seed=0), Dirichlet(alpha=0.1), Identity(), CLIENTS, 0)
    scores = everyone.train.numpy() @ model["weight"].T + model["bias"]
    accuracy = float((scores.argmax(1) == everyone.train_labels.numpy()).mean())
    assert result["metrics"]["client_accuracy"] == pytest.approx(accuracy, abs=2e-3)


def test_rounds_are_told_as_they_happen():
    told = []
    run(fedavg(), emit=lambda kind, **fields: told.append((kind, fields.get("round", fields.get("done")))))
    # Five clients are five blocks: each is told when it has answered.
    steps = [("progress", done) for done in range(1, CLIENTS + 1)]
    assert told == [("round", 0), *steps, ("round", 1), *steps, ("round", 2)]


def test_the_result_is_written_where_the_config_says(tmp_path):
    result, model = run(config(out=str(tmp_path / "out")))
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == result
    assert np.array_equal(load_file(tmp_path / "out" / "model.safetensors")["weight"], model["weight"])


def test_fewer_nodes_than_clients_are_told_without_waiting_for_ever():
    with pytest.raises(BadInput, match=r"3 of 5 clients connected within 0 s: start the others, or set clients=3"):
        run(config(), nodes=3)


def test_more_nodes_than_clients_are_told_by_the_first_of_them():
    with pytest.raises(ClientFailed, match="describes 5 clients but 7 nodes take part: set clients=7"):
        run(config(), nodes=7)


def test_what_is_no_strategy_is_refused():
    with pytest.raises(BadInput, match=r"strategy \{'_target_': 'builtins.dict'.*is no flwr.serverapp"):
        run(config(strategy={"_target_": "builtins.dict", "a": 1}))


def test_a_client_that_raises_is_named():
    with pytest.raises(ClientFailed, match=r"client 0 failed: Traceback[\s\S]+unknown mode 'decimal'"):
        shown = {"config": json.dumps(config(client={"_target_": "clients.afl.AFL", "mode": "decimal"}))}
        good = {"config": json.dumps(config())}
        with LocalGrid(client_app, CLIENTS, shown) as grid:
            server_app(grid, Context(0, 1, {}, RecordDict(), dict(good)))
