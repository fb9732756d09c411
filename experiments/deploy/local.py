"""A whole deployment on this machine, held against the simulation: `fedlab deploy local`."""

from __future__ import annotations

import json
import logging
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, RecordDict
from omegaconf import DictConfig
from rich.console import Console
from safetensors.numpy import load_file

from experiments.config.compose import compose
from experiments.config.schema import check
from experiments.deploy.agreement import check_agreement
from experiments.deploy.federation import Federation
from experiments.runner.compare import CLIENT_APP, describe
from fedlab.engine.messages.records import from_record
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput
from strategies.app import app as server_app

DEFAULTS = ("clients=4", "methods=[afl]")


def deploy_locally(overrides: Sequence[str], out: Path | None = None, console: Console | None = None) -> Path:
    """Start a federation on loopback, run a method on it, compare with the simulation, stop everything.

    Args:
        overrides: Overrides as for `fedlab run`; `clients` is the number of SuperNodes. Without an experiment, 4 of
            them run AFL.
        out: Folder of results and logs; None for one of this moment under outputs/.
        console: Console that shows how far it is; standard output when None.

    Returns:
        Path: The folder with results.json, model.safetensors and logs/.

    Raises:
        BadInput: The config is not one of a deployment, a process failed, or the model differs from the simulation's
            by more than its numbers allow.
    """
    # An experiment says itself which method it is of.
    chosen = any(word.startswith("experiment=") for word in overrides)
    cfg, name = one_method(overrides if chosen else [*DEFAULTS, *overrides])
    config = describe(cfg, name)
    console = console or Console(highlight=False)
    out = out or Path("outputs") / "deploy_local" / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    started = time.monotonic()

    def say(line: str) -> None:
        console.print(f"{time.monotonic() - started:6.1f} s  {line}", soft_wrap=True, markup=False)

    with ExitStack() as stack:
        # `kill`, or a terminal that is closed, shall leave as little behind as Ctrl-C does.
        for ending in (signal.SIGTERM, signal.SIGHUP):
            stack.callback(signal.signal, ending, signal.signal(ending, signal.default_int_handler))
        secret = stack.enter_context(tempfile.TemporaryDirectory(prefix="fedlab-deploy-"))
        federation = stack.enter_context(Federation(Path(secret), cfg.clients, logs=out / "logs"))
        stack.callback(say, "stopping what was started")
        say(f"keys and certificates for a SuperLink and {cfg.clients} SuperNodes")
        federation.start(say)
        run = federation.run(config, out)
        say(f"{name}: submitted; what the ServerApp says:")
        simulated, model = simulate(config)
        run.wait(None, federation.check, say)
    deployed = json.loads((out / "results.json").read_text(encoding="utf-8"))
    console.print(f"deployed   {_head(deployed)}\nsimulated  {_head(simulated)}\nresults in {out}", soft_wrap=True)
    learner = config["client"].get("learner", config["client"])  # what secure aggregation masks has the mode
    try:
        verdict = check_agreement(deployed, simulated, load_file(out / "model.safetensors"), model, learner.get("mode"))
    except BadInput as error:
        raise BadInput(f"{error} Logs in {out / 'logs'}") from error
    console.print(verdict, soft_wrap=True)
    return out


def one_method(overrides: Sequence[str]) -> tuple[DictConfig, str]:
    """Compose a config that a deployment can run, and return it with its method's name.

    Raises:
        BadInput: Not exactly one method, one that needs no federation, or no clients.
    """
    cfg = compose(overrides)
    check(cfg)
    names = list(cfg.methods)
    if len(names) != 1 or cfg.methods[names[0]].strategy is None:
        raise BadInput(f"methods={names}: a deployment runs one method that has a strategy, e.g. methods=[afl]")
    if cfg.clients is None or cfg.clients < 1:
        given = "null" if cfg.clients is None else cfg.clients
        raise BadInput(f"clients={given}: give the number of SuperNodes, at least 1, e.g. clients=4")
    return cfg, names[0]


def simulate(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Run what a deployment runs on LocalGrid, and return its results and its model."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    here = {"config": json.dumps(config)}
    context = Context(0, 1, {}, RecordDict(), dict(here))
    with LocalGrid(CLIENT_APP, config["clients"], here) as grid:
        server_app(MeteredGrid(grid), context)
    result = json.loads(str(context.state.config_records["result"]["json"]))
    return result, from_record(context.state.array_records["model"])


def _head(result: dict[str, Any]) -> str:
    return f"head {result['head_sha256']}, accuracy {result['accuracy']:.2%}"
