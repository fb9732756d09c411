"""Compare methods: each runs its ServerApp and ClientApp on a Grid of its own, over one and the same world.

The ServerApp and ClientApp are the very objects that a deployment starts; here they meet on a simulated Grid.
What a run directory's checkpoints hold is not computed again: methods that ended keep their results, and the one
that was under way goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from flwr.app import ArrayRecord, Context, RecordDict
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors.numpy import save

from experiments.runner.centralised import centralised
from experiments.runner.resume import CHECKPOINTS, ledger_of
from fedlab import world
from fedlab.engine.messages.records import from_record
from fedlab.engine.persistence.checkpoint import Checkpoints
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.engine.simulation.simulated import SimulatedGrid
from fedlab.errors import BadInput
from fedlab.tracking.run_directory import Event, RunDirectory
from fedlab.world import World
from strategies.app import app as server_app

CLIENT_APP = "clients.app:app"


def compare(cfg: DictConfig, directory: RunDirectory) -> dict[str, Any]:
    """Run every method of the config and return the results of the run-directory contract."""
    started = time.perf_counter()
    if not cfg.methods:
        raise BadInput("methods=[] names no method: give at least one, e.g. methods=[afl]")
    checkpoints = {name: checkpoints_of(cfg, name, directory) for name in cfg.methods}
    methods, models = _ended(checkpoints, directory)
    everyone = build_world(cfg, directory)
    features_seconds = time.perf_counter() - started
    with ExitStack() as stack:
        grid: SimulatedGrid | None = None
        for name in cfg.methods:
            if name in methods:
                continue
            if grid is None and cfg.methods[name].strategy is not None:
                grid = stack.enter_context(make_grid(cfg, everyone))
            methods[name], models[name] = run_method(cfg, name, everyone, grid, directory, checkpoints[name])
            methods[name]["seconds"]["features"] = features_seconds
            directory.event("result", method=name, **methods[name])
            checkpoints[name].finish({"result": methods[name], "model": models[name]})
    # The first method is the run's own; the others are what it is compared with.
    first = next(iter(methods))
    directory.write_bytes("model.safetensors", save(from_record(models[first]), metadata={"method": first}))
    directory.write_json("label_counts.json", everyone.federation.label_counts().tolist())
    return {"experiment": cfg.name, **methods[first], "methods": methods}


def checkpoints_of(cfg: DictConfig, name: str, directory: RunDirectory) -> Checkpoints:
    """Return the checkpoints of a method, under `checkpoints/` in the run directory."""
    folder = directory.path.absolute() / CHECKPOINTS / name
    return Checkpoints(folder, json.dumps(describe(cfg, name)), cfg.checkpoint.every)


def _ended(
    checkpoints: Mapping[str, Checkpoints], directory: RunDirectory
) -> tuple[dict[str, dict[str, Any]], dict[str, ArrayRecord]]:
    """Return results and models of the methods that ended; cut the events back to what will not happen again."""
    results: dict[str, dict[str, Any]] = {}
    models: dict[str, ArrayRecord] = {}
    waiting = list(checkpoints)
    while waiting and (kept := checkpoints[waiting[0]].result()) is not None:
        name = waiting.pop(0)
        results[name], models[name] = kept["result"], kept["model"]
    under_way = waiting[0] if waiting else None
    last_round = checkpoints[under_way].last_round if under_way else None
    for name in waiting[1:]:  # only where the result of a method before them was damaged
        checkpoints[name].forget()

    def stays(event: Event) -> bool:
        if event.get("method") != under_way or last_round is None:
            return event.get("method") in results
        return event["event"] == "method" or (event["event"] in ("round", "resume") and event["round"] <= last_round)

    if (directory.path / CHECKPOINTS).exists():
        directory.rewind(stays)
    return results, models


def build_world(cfg: DictConfig, directory: RunDirectory) -> World:
    """Return the world of the config, telling how far the features are."""
    return world.build(
        **{part: instantiate(cfg[part]) for part in ("source", "partition", "stream", "availability")},
        backbone=instantiate(cfg.features.backbone),
        **{name: cfg[name] for name in ("clients", "seed", "device")},
        progress=lambda done, total: directory.tick("features", done=done, total=total),
    )


def make_grid(cfg: DictConfig, everyone: World) -> SimulatedGrid:
    """Return the Grid that the config names; all methods of a run share it, and each restarts it."""
    # Partial: Hydra would make configs of the faults that are passed to it.
    return instantiate(cfg.engine, _partial_=True)(
        CLIENT_APP,
        everyone.federation.num_clients,
        sizes=everyone.federation.sizes,
        faults=[instantiate(fault) for fault in cfg.faults.values()],
        seed=cfg.seed,
    )


def run_method(
    cfg: DictConfig,
    name: str,
    everyone: World,
    grid: SimulatedGrid | None,
    directory: RunDirectory,
    checkpoints: Checkpoints | None = None,
    ledger: str | None = None,
) -> tuple[dict[str, Any], ArrayRecord]:
    """Run one method, from its last checkpoint if it has one; return its result and its model.

    Only a method without a strategy, the centralised one, runs without a grid. What a private method releases is
    counted in the run's ledger of the name `ledger`; a study, whose cells have a budget each, gives each a name.
    """
    method = cfg.methods[name]
    begun = checkpoints is not None and checkpoints.last_round is not None
    tell = directory.tick if begun else directory.event  # a method that goes on was announced before
    rounds = method.rounds * (len(everyone.client_stream) if everyone.client_stream else 1)
    tell("method", method=name, rounds=rounds, clients=everyone.federation.num_clients)

    def emit(kind: str, **fields: Any) -> None:
        (directory.tick if kind == "progress" else directory.event)(kind, method=name, **fields)

    if method.strategy is None:
        learner = instantiate(describe(cfg, name)["client"], num_classes=everyone.num_classes)
        result, arrays, notes = centralised(learner, everyone, cfg.ridge, cfg.seed, emit)
        for note in notes:
            emit("warning", message=note)
    else:
        assert grid is not None, f"{name} needs a grid"
        config = {"config": json.dumps(describe(cfg, name))}
        grid.restart(config)
        where = {"folder": str(checkpoints.folder), "every": checkpoints.every} if checkpoints else None
        of_server = {"checkpoints": json.dumps(where), "directory": str(directory.path.absolute())}
        if checkpoints or ledger:  # a run that may go on must not forget what it has released
            of_server["ledger"] = str(ledger_of(directory.path.absolute(), ledger or name))
        context = Context(0, 1, {}, RecordDict(), {**config, **of_server})
        server_app(MeteredGrid(grid, emit), context)
        result = json.loads(str(context.state.config_records["result"]["json"]))
        arrays = context.state.array_records["model"]
    return result, arrays


def describe(cfg: DictConfig, name: str) -> dict[str, Any]:
    """Return what both apps need to run a method: plain values, the same on every node."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    method = plain["methods"][name]
    of_stream = {"stream": plain["stream"], "availability": plain["availability"], "buffer": method.get("buffer", 0)}
    return {
        "source": plain["source"],
        "partition": plain["partition"],
        "backbone": plain["features"]["backbone"],
        **(of_stream if plain["stream"] is not None else {}),
        **{key: plain[key] for key in ("clients", "seed", "device", "tolerate", "timeout")},
        "connect_timeout": 60.0,
        "strategy": method["strategy"],
        "client": method["client"],
        "rounds": method["rounds"],
    }
