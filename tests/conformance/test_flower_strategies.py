"""Every strategy that ships with Flower gives here what it gives on Flower's own engine.

One app runs them all, one after the other (tests/apps/shipped, with the table of strategies): once on each
engine. LocalGrid and RayGrid agree to the bit.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray

from fedlab.engine.flower_apps.apps import FlowerApp  # isort: skip  # first: it switches Flower's network calls off
from flwr.serverapp import strategy as flower

from experiments.main import main
from fedlab.engine.simulation.cluster import available_cpus

pytestmark = pytest.mark.slow

APPS = Path(__file__).parents[1] / "apps"
SHIPPED, NUMBERS = (FlowerApp.read(APPS / name) for name in ("shipped", "numbers"))
SHIPPED.client()  # its folder joins the path, and so the table is found

from shipped.table import NODES, ORDER, ROWS  # noqa: E402

from tests.tolerance import FLOAT64, assert_near  # noqa: E402

Results = dict[str, dict[str, np.ndarray]]
ENGINES = ("local", "ray")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Results]:
    """'flower', 'local' and 'ray': what each app left behind."""
    folder = tmp_path_factory.mktemp("engines")
    files = {e: {a: folder / f"{e}-{a}.npz" for a in ("shipped", "numbers")} for e in ("flower", *ENGINES)}

    def words(engine: str, app: str) -> list[str]:
        out = f"out='{files[engine][app]}'"
        # Under Flower's engine a ServerApp starts before its nodes are there: it must wait for all.
        return [out, "fail='1,3'", "min-nodes=5"] if app == "numbers" else [out]

    script = [sys.executable, APPS / "flowers_engine.py"]
    command = [*script, NODES, SHIPPED.folder, *words("flower", "shipped")]
    command += ["--", 5, NUMBERS.folder, *words("flower", "numbers")]
    log = (folder / "flower.log").open("w")
    with log, subprocess.Popen(list(map(str, command)), stdout=log, stderr=log) as flowers:
        try:
            # One Ray for both apps: a grid leaves alone what it finds running.
            ray.init("local", num_cpus=available_cpus(), include_dashboard=False, log_to_driver=False)
            for engine in ENGINES:
                options = ["--engine", engine, "--run-config"]
                run = ["flower", str(SHIPPED.folder), "--nodes", str(NODES), *options]
                assert main([*run, *words(engine, "shipped")]) == 0
                run = ["flower", str(NUMBERS.folder), "--nodes", "5", *options]
                assert main([*run, *words(engine, "numbers")]) == 2  # two of its clients fail
            assert flowers.wait(timeout=200) == 0, (folder / "flower.log").read_text()[-3000:]
        finally:
            ray.shutdown()
            flowers.terminate()
    return {engine: {app: dict(np.load(file)) for app, file in of.items()} for engine, of in files.items()}


def of_row(results: Results, name: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(f"{name}/"): v for k, v in results["shipped"].items() if k.startswith(f"{name}/")}


def test_the_table_has_every_strategy_that_ships():
    tried = {type(row.strategy()).__name__ for row in ROWS}
    assert tried == set(flower.__all__) - {"Strategy", "Result"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_strategy_gives_what_it_gives_on_flowers_own_engine(results, row):
    theirs, ours = (of_row(results[engine], row.name) for engine in ("flower", "local"))
    assert theirs.keys() == ours.keys() >= {"model", "train train_loss"}
    for key, expected in theirs.items():
        # Metrics are float64, but each is measured on a float32 model.
        tolerance = row.tolerance if key == "model" else ORDER
        scale = np.abs(expected).max()
        assert np.isfinite(expected).all() and scale > 0.01, key
        assert np.abs(ours[key] - expected).max() <= tolerance * scale, key


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_strategy_gives_the_same_bits_on_both_of_our_engines(results, row):
    local, ray = (of_row(results[engine], row.name) for engine in ENGINES)
    assert local.keys() == ray.keys()
    for key in local:
        assert local[key].tobytes() == ray[key].tobytes(), key


def test_no_two_rows_train_alike_but_those_that_clip_on_either_side(results):
    models = {row.name: of_row(results["local"], row.name)["model"] for row in ROWS}
    alike = {
        frozenset((a, b))
        for a in models
        for b in models
        if a < b and models[a].shape == models[b].shape and np.allclose(models[a], models[b], rtol=1e-5)
    }
    wrapper = "DifferentialPrivacy{}Side{}Clipping"
    assert alike == {
        frozenset(wrapper.format(side, kind) for side in ("Client", "Server")) for kind in ("Fixed", "Adaptive")
    }


@pytest.mark.parametrize("key", ["model", "losses", "calls"])
@pytest.mark.parametrize("engine", ENGINES)
def test_state_mods_and_failing_clients_are_as_on_flowers_own_engine(results, engine, key):
    theirs, ours = results["flower"]["numbers"], results[engine]["numbers"]
    assert_near(ours[key], theirs[key], 100, FLOAT64)  # float64 this time, added in another order
