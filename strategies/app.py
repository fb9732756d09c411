"""The ServerApp: runs one method's strategy on any Grid and leaves its result in `context.state`.

`context.run_config["config"]` is the same JSON string that the clients see. The result is the record "result"
(one JSON string with the keys of the run-directory contract) and the record "model" (the final arrays); where
the config names a directory `out`, both are also written there, for a deployment whose driver is elsewhere.
`context.run_config["checkpoints"]`, which no client needs, says where the rounds are kept (folder, every), and
`context.run_config["directory"]` where the run is: a strategy that keeps its clients' statistics does so there.
`context.run_config["ledger"]` is the file that counts what was released, where a strategy promises privacy; a
deployment has it as `privacy.jsonl` in `out`.
"""

from __future__ import annotations

import gc
import json
import logging
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy
from hydra.utils import instantiate
from safetensors.numpy import save

from fedlab import world
from fedlab.engine.aggregation.rounds import run_rounds
from fedlab.engine.aggregation.server_evaluation import ServerEvaluator
from fedlab.engine.aggregation.strategy import FedlabStrategy, contract_of
from fedlab.engine.messages.records import digest_of, from_record, to_record
from fedlab.engine.persistence.checkpoint import Checkpoints
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput
from fedlab.method import Learner, learner_of
from fedlab.privacy.accounting.ledger import opened
from fedlab.tracking.outcome import Outcome
from fedlab.tracking.run_directory import RunDirectory

app = ServerApp()
MARKS = 8
"""Lines that a phase writes on its way, at most, where only a log is kept."""

UNKEPT = (
    "what this run releases is counted in memory alone, and forgotten with it: name a directory `out` that keeps "
    "the ledger, and use it again for the same data"
)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the method that the config describes."""
    config = json.loads(str(context.run_config["config"]))
    metered = isinstance(grid, MeteredGrid)
    kept = json.loads(str(context.run_config.get("checkpoints", "null")))
    checkpoints = Checkpoints(config=str(context.run_config["config"]), **kept) if kept else None
    where = context.run_config.get("directory", config.get("out"))
    directory = Path(str(where)) if where else None
    counted = context.run_config.get("ledger") or (config.get("out") and f"{config['out']}/privacy.jsonl")
    ledger = Path(str(counted)) if counted else None
    result, arrays = run(grid if metered else MeteredGrid(grid, _log), config, checkpoints, directory, ledger)
    if not metered:  # nobody listens but whoever reads the log
        for client, reason in result["faults"]["failed"].items():
            _log("warning", message=f"client {client} is not in the model: {reason.strip().splitlines()[-1]}")
    context.state["result"] = ConfigRecord({"json": json.dumps(result)})
    context.state["model"] = arrays
    if config.get("out"):
        with RunDirectory(Path(config["out"])) as out:
            out.write_bytes("model.safetensors", save(from_record(arrays)))
            out.write_json("results.json", result)  # last: whoever waits for it finds the model whole


def run(
    grid: MeteredGrid,
    config: dict[str, Any],
    checkpoints: Checkpoints | None = None,
    directory: Path | None = None,
    ledger: Path | None = None,
) -> tuple[dict[str, Any], ArrayRecord]:
    """Run a strategy to its end, from its last checkpoint if there is one; return its result and its model.

    A strategy with a `privacy` is given its ledger: see `fedlab.privacy.accounting.ledger.Ledger`.
    """
    started = time.perf_counter()
    parts = {part: instantiate(config.get(part)) for part in world.PARTS}
    everyone = world.build(**parts, **{name: config[name] for name in ("clients", "seed", "device")})
    learner = learner_of(instantiate(config["client"], num_classes=everyone.num_classes))
    strategy = instantiate(config["strategy"])
    if not isinstance(strategy, Strategy):
        raise BadInput(f"strategy {config['strategy']} is no flwr.serverapp.strategy.Strategy")
    method = contract_of(strategy)
    if directory is not None and method.kept:
        method.kept.keep_in(directory)
    clients = everyone.federation.num_clients
    _wait_for_nodes(grid, clients, config["connect_timeout"])
    random.seed(config["seed"])  # Flower's strategies sample nodes from the global generator

    client_stream = everyone.client_stream
    steps = len(client_stream) if client_stream else 1
    _check_rounds(type(strategy).__name__, method, config["rounds"], steps)
    if memory_estimate := estimate_memory(learner, everyone):
        grid.emit("note", message=memory_estimate)
    evaluate = ServerEvaluator(learner, everyone, config["rounds"], method.rounds_per_step or 1)

    setup = time.perf_counter() - started
    gc.freeze()  # Flower's strategies collect garbage for every reply: not through all that is imported
    try:
        with opened(method.privacy, ledger) as spending:
            if spending is not None:
                method.ledger = spending
                if ledger is None and not grid.simulated:
                    grid.emit("warning", message=UNKEPT)
            initial = to_record(learner.initial(everyone.train.shape[1], config["seed"]))
            rounds, timeout, tolerate = config["rounds"] * steps, config["timeout"], config["tolerate"]
            history = run_rounds(strategy, grid, initial, rounds, evaluate, timeout, tolerate, checkpoints)
    finally:
        gc.unfreeze()
    report = dict(method.report())
    for note in report.pop("notes", []):
        grid.emit("warning", message=note)
    if broken := [name for name, array in from_record(history.arrays).items() if not np.isfinite(array).all()]:
        grid.emit(
            "warning",
            message=f"the model diverged: {', '.join(broken)} hold NaN or infinite numbers, and its accuracy "
            "means nothing; lower gradient.learning_rate, or the strategy's own step",
        )
    of_clients = {f"client_{name}": value for name, value in history.federated.items()}
    statistics_sha256 = report.pop("statistics_sha256", None)
    outcome = Outcome(
        strategy=type(strategy).__name__,
        seed=config["seed"],
        clients=clients,
        rounds=history.rounds,
        accuracy=history.metrics.get("accuracy"),
        metrics={**history.metrics, **evaluate.summary(), **report, **of_clients},
        statistics_sha256=statistics_sha256,
        head_sha256=digest(history.arrays),
        bytes_up_per_client=grid.traffic.bytes_up / clients,
        bytes_down_per_client=grid.traffic.bytes_down / clients,
        seconds={"setup": setup, **history.seconds, "total": setup + history.elapsed},
        privacy=spending.statement() if spending is not None else None,
        faults={"failed": history.failures, "restarts": grid.restarts},
    )
    return outcome.values(), history.arrays


def estimate_memory(learner: Learner, everyone: world.World) -> str | None:
    """Return what a method says of the memory it will take; it refuses what would not fit before it is taken."""
    client_stream, labels = everyone.client_stream, everyone.train_labels
    if client_stream is not None:
        labels = labels[torch.from_numpy(client_stream.seen(len(client_stream) - 1))]
    counts = torch.bincount(labels, minlength=everyone.num_classes)
    return learner.estimate_memory(counts.tolist(), everyone.train.shape[1])


def _check_rounds(name: str, method: FedlabStrategy, rounds: int, steps: int) -> None:
    """Refuse rounds that a closed form has no use for."""
    if rounds != (needed := method.rounds_per_step or rounds):
        raise BadInput(f"rounds={rounds}: {name} takes {needed} to learn what there is, and nothing from more")
    if steps > 1 and method.one_round:
        raise BadInput(
            f"{name} learns once, and the stream brings samples in {steps} steps: choose a continual method, "
            "e.g. methods=[acil]"
        )


def _log(kind: str, **fields: Any) -> None:
    # Where no run directory listens: these lines reach whoever follows the run with `flwr log`.
    if kind == "progress":
        done, total = fields["done"], fields["total"]
        if done * MARKS // total == (done - 1) * MARKS // total:
            return
        line = f"{done} of {total} clients answered"
    else:
        values = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in fields.items()}
        line = ", ".join(value if name == "message" else f"{name} {value}" for name, value in values.items())
    logging.getLogger("flwr").log(logging.WARNING if kind == "warning" else logging.INFO, "fedlab: %s", line)


def digest(arrays: ArrayRecord) -> str:
    """Return the SHA-256 of a model."""
    return digest_of(from_record(arrays))


def _wait_for_nodes(grid: Grid, clients: int, retry_for: float) -> None:
    # Under Flower's own engine, nodes register after the ServerApp has started.
    deadline = time.monotonic() + retry_for
    while (connected := len(list(grid.get_node_ids()))) < clients:
        if time.monotonic() > deadline:
            raise BadInput(
                f"{connected} of {clients} clients connected within {retry_for:g} s: start the others, or set "
                f"clients={connected}"
            )
        time.sleep(0.2)
