"""What every method promises, analytic or not; a new one enters by a row in `methods.py`."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord

from experiments.config.compose import compose, configuration
from experiments.runner.compare import CLIENT_APP, describe
from fedlab.engine.messages.records import from_record
from fedlab.engine.persistence.checkpoint import Checkpoints
from fedlab.engine.simulation.faults import Dropout
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from strategies.app import digest, run
from tests.conformance.methods import ELSEWHERE, METHODS, Method

CLIENTS = 12
LOSING = 6
"""A seed by which a tenth's dropout strikes somebody in the first round of every method."""
EVERY = pytest.mark.parametrize("row", METHODS, ids=lambda row: row.name)
SETTINGS = ["features.expansion.width=64", "partition=iid", f"clients={CLIENTS}", "rounds=3"]


def config(row: Method, *more: str) -> dict[str, Any]:
    return describe(compose([f"methods=[{row.name}]", *SETTINGS, *row.overrides, *more]), row.name)


def outcome(
    settings: dict[str, Any], checkpoints: Checkpoints | None = None, **grid: Any
) -> tuple[dict[str, Any], ArrayRecord]:
    """Return the result and the model of one run on a grid of its own."""
    simulated = LocalGrid(CLIENT_APP, CLIENTS, **{"seed": 0, **grid})
    simulated.restart({"config": json.dumps(settings)})
    return run(MeteredGrid(simulated), settings, checkpoints)


@lru_cache
def calm(row: Method) -> tuple[dict[str, Any], ArrayRecord]:
    return outcome(config(row))


def test_every_method_has_a_row():
    written = {path.stem for path in (Path(str(configuration())) / "methods").glob("*.yaml")}
    assert written == {row.name for row in METHODS} | set(ELSEWHERE)


@EVERY
def test_it_learns_and_says_what_it_did(row):
    result, model = calm(row)
    assert row.learns <= result["accuracy"] <= 1
    assert all(np.isfinite(array).all() for array in from_record(model).values())
    assert result["rounds"] == config(row)["rounds"] and result["clients"] == CLIENTS
    assert result["head_sha256"] == digest(model) and not result["faults"]["failed"]
    assert result["bytes_up_per_client"] > 0
    json.dumps(result, allow_nan=False)


@EVERY
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(row, tmp_path):
    settings = config(row)
    text, kept = json.dumps(settings), tmp_path / "checkpoints"

    class Stopped(Exception):
        pass

    class Stopping(Checkpoints):
        def after(self, server_round: int, state: Any) -> Any:
            yield from super().after(server_round, state)
            raise Stopped

    with pytest.raises(Stopped):
        outcome(settings, Stopping(folder=kept, config=text))
    result, model = outcome(settings, Checkpoints(folder=kept, config=text))
    assert result["rounds"] == settings["rounds"]
    assert digest(model) == digest(calm(row)[1])


@EVERY
def test_clients_that_drop_out_are_named_and_tolerated(row):
    settings = config(row, "tolerate=0.5")
    result, model = outcome(settings, faults=[Dropout(0.1)], seed=LOSING)
    assert all(np.isfinite(array).all() for array in from_record(model).values())
    assert result["faults"]["failed"]
    assert all("dropped out" in reason for reason in result["faults"]["failed"].values())
