"""`flwr run` on this checkout, under Flower's own simulation engine: the same bits as LocalGrid."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from flwr.app import Context, RecordDict

from clients.app import app as client_app
from fedlab.engine.simulation.local_grid import LocalGrid
from strategies.app import app as server_app

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FLWR = Path(sys.executable).parent / "flwr"
NODES = 10


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A FLWR_HOME of its own; whatever was started with it is ended, by pid."""
    yield tmp_path
    found = [process for process in psutil.process_iter() if _home_of(process) == str(tmp_path)]
    for process in found:
        _end(process, psutil.Process.terminate)
    _, alive = psutil.wait_procs(found, timeout=30)
    for process in alive:
        _end(process, psutil.Process.kill)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the bundle is made of; walking a virtual environment too would take flwr ten seconds."""
    copy = tmp_path / "checkout"
    for package in ("fedlab", "strategies", "clients", "conf"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".gitignore", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def flwr(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    ports = {f"FLWR_LOCAL_{api}_API_PORT": str(_free_port(home, api)) for api in ("SUPERLINK_HTTP", "CONTROL")}
    offline = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    # flwr finds its own programs on the path.
    path = f"{FLWR.parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, **ports, **offline, "FLWR_HOME": str(home), "PATH": path}
    return subprocess.run([FLWR, *words], cwd=home, env=env, capture_output=True, text=True, timeout=60, check=True)


def test_the_bundle_carries_the_three_packages_and_nothing_else(home, checkout):
    flwr(home, "build", "--app", str(checkout))
    (bundle,) = home.glob("*.fab")
    names = zipfile.ZipFile(bundle).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"fedlab", "strategies", "clients", "pyproject.toml", ".info"}
    for package in ("fedlab", "strategies", "clients"):
        written = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
        assert written <= set(names)


def test_flowers_own_engine_gives_the_same_bits(home, checkout):
    config = {**_default(), "clients": NODES, "out": str(home / "out")}
    (home / "run.toml").write_text(f"config = '''{json.dumps(config)}'''\n")
    started = flwr(
        home,
        "run",
        str(checkout),
        "--run-config",
        str(home / "run.toml"),
        "--federation-config",
        f"num-supernodes={NODES} init-args-num-cpus=1 client-resources-num-cpus=1",
    )
    deployed = _result(home, started.stdout)

    here = {"config": json.dumps({**config, "out": None})}
    context = Context(0, 1, {}, RecordDict(), dict(here))
    with LocalGrid(client_app, NODES, here) as grid:
        server_app(grid, context)
    local = json.loads(str(context.state["result"]["json"]))
    for key in ("head_sha256", "statistics_sha256", "accuracy", "clients", "rounds", "bytes_up_per_client"):
        assert deployed[key] == local[key], key
    assert (home / "out" / "model.safetensors").stat().st_size > 0


def _default() -> dict:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return json.loads(project["tool"]["flwr"]["app"]["config"]["config"])


def _result(home: Path, said: str) -> dict:
    results, log = home / "out" / "results.json", home / "local-superlink" / "superlink.log"
    deadline = time.monotonic() + 150
    while not results.exists():
        if time.monotonic() > deadline or (log.exists() and "Finished task" in log.read_text()):
            if results.exists():
                break
            run = said.split("started run ")[1].split()[0]
            pytest.fail(f"the run left no results: {flwr(home, 'log', '--show', run).stdout}")
        time.sleep(0.1)
    return json.loads(results.read_text())


def _free_port(home: Path, name: str) -> int:
    kept = home / f"{name}.port"
    if not kept.exists():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            kept.write_text(str(probe.getsockname()[1]))
    return int(kept.read_text())


def _home_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("FLWR_HOME")
    except psutil.Error:
        return None


def _end(process: psutil.Process, how) -> None:
    with suppress(psutil.NoSuchProcess):
        how(process)
