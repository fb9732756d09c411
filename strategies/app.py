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
from collections.abc import Iterable
from itertools import chain
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
from fedlab.engine.messages.records import digest_of, from_record, to_record
from fedlab.engine.persistence.checkpoint import Checkpoints
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput
from fedlab.evaluation.classification import classification
from fedlab.evaluation.stream import StreamEvaluation
from fedlab.privacy.accounting.ledger import opened
from fedlab.tracking.outcome import Outcome
from fedlab.tracking.run_directory import RunDirectory

app = ServerApp()
ROWS = 4096
"""Test samples expanded at a time."""
KEPT_FEATURES = 2**30
"""Bytes of expanded test samples that stay from round to round; more are expanded anew."""
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

    A strategy with an attribute `privacy` is given its ledger as the attribute `ledger`: see
    `fedlab.privacy.accounting.ledger.Ledger`.
    """
    started = time.perf_counter()
    parts = {part: instantiate(config.get(part)) for part in world.PARTS}
    everyone = world.build(**parts, **{name: config[name] for name in ("clients", "seed", "device")})
    model = instantiate(config["client"], num_classes=everyone.num_classes)
    strategy = instantiate(config["strategy"])
    if not isinstance(strategy, Strategy):
        raise BadInput(f"strategy {config['strategy']} is no flwr.serverapp.strategy.Strategy")
    if directory is not None and (kept := getattr(strategy, "kept", None)):
        kept.keep_in(directory)
    clients = everyone.federation.num_clients
    _wait_for_nodes(grid, clients, config["connect_timeout"])
    random.seed(config["seed"])  # Flower's strategies sample nodes from the global generator

    client_stream = everyone.client_stream
    _check_rounds(strategy, config["rounds"], len(client_stream) if client_stream else 1)
    if memory_estimate := estimate_memory(model, everyone):
        grid.emit("note", message=memory_estimate)
    judge = ServerEvaluator(model, everyone, config["rounds"], getattr(strategy, "rounds_per_step", 1))

    setup = time.perf_counter() - started
    gc.freeze()  # Flower's strategies collect garbage for every reply: not through all that is imported
    try:
        with opened(getattr(strategy, "privacy", None), ledger) as spending:
            if spending is not None:
                strategy.ledger = spending  # pyright: ignore[reportAttributeAccessIssue]
                if ledger is None and not grid.simulated:
                    grid.emit("warning", message=UNKEPT)
            history = run_rounds(
                strategy,
                grid,
                to_record(model.initial(everyone.train.shape[1], config["seed"])),
                config["rounds"] * (len(client_stream) if client_stream else 1),
                judge,
                config["timeout"],
                config["tolerate"],
                checkpoints,
            )
    finally:
        gc.unfreeze()
    told = getattr(strategy, "report", dict)()  # ours speak of their solve; Flower's have no such method
    for note in told.pop("notes", []):
        grid.emit("warning", message=note)
    broken = [name for name, array in from_record(history.arrays).items() if not np.isfinite(array).all()]
    if broken:
        grid.emit(
            "warning",
            message=f"the model diverged: {', '.join(broken)} hold NaN or infinite numbers, and its accuracy "
            "means nothing; lower gradient.learning_rate, or the strategy's own step",
        )
    of_clients = {f"client_{name}": value for name, value in history.federated.items()}
    statistics_sha256 = told.pop("statistics_sha256", None)
    outcome = Outcome(
        strategy=type(strategy).__name__,
        seed=config["seed"],
        clients=clients,
        rounds=history.rounds,
        accuracy=history.metrics.get("accuracy"),
        metrics={**history.metrics, **judge.summary(), **told, **of_clients},
        statistics_sha256=statistics_sha256,
        head_sha256=digest(history.arrays),
        bytes_up_per_client=grid.traffic.bytes_up / clients,
        bytes_down_per_client=grid.traffic.bytes_down / clients,
        seconds={"setup": setup, **history.seconds, "total": setup + history.elapsed},
        privacy=spending.statement() if spending is not None else None,
        faults={"failed": history.failures, "restarts": grid.restarts},
    )
    return outcome.values(), history.arrays


def estimate_memory(model: Any, everyone: world.World) -> str | None:
    """Return what a method says of the memory it will take; it refuses what would not fit before it is taken."""
    if not hasattr(model, "estimate_memory"):
        return None
    client_stream, labels = everyone.client_stream, everyone.train_labels
    rows = (
        labels
        if client_stream is None
        else labels[torch.from_numpy(client_stream.seen(len(client_stream) - 1))]
    )
    counts = torch.bincount(rows, minlength=everyone.num_classes)
    return model.estimate_memory(counts.tolist(), everyone.train.shape[1])


def _check_rounds(strategy: Strategy, rounds: int, steps: int) -> None:
    """Refuse rounds that a closed form has no use for."""
    name, needed = type(strategy).__name__, getattr(strategy, "rounds_per_step", rounds)
    if rounds != needed:
        raise BadInput(
            f"rounds={rounds}: {name} takes {needed} to learn what there is, and nothing from more"
        )
    if steps > 1 and getattr(strategy, "one_round", False):
        raise BadInput(
            f"{name} learns once, and the stream brings samples in {steps} steps: choose a continual method, "
            "e.g. methods=[acil]"
        )


class ServerEvaluator:
    """The server's own evaluation: on the test split, or after each step of a course on what is exposed.

    Parameters
    ----------
    model
        The method's client side: what makes scores of a model.
    everyone
        Whose test split.
    rounds
        Of one step.
    every
        After how many rounds there is another model to judge.
    """

    def __init__(self, model: Any, everyone: world.World, rounds: int, every: int = 1):
        self._model, self._rounds, self._every = model, rounds, every
        self._parts = everyone.test.split(ROWS)
        self._kept: list[torch.Tensor] = []
        self._labels = everyone.test_labels.cpu().numpy()
        self._evaluation = StreamEvaluation(everyone.client_stream) if everyone.client_stream else None

    def __call__(self, server_round: int, arrays: ArrayRecord) -> dict[str, float]:
        """Return the metrics of a model after a round; empty where there is nothing, or nothing new, to judge."""
        if server_round % self._every:
            return {}
        if self._evaluation is None:
            return classification(self._labels, self._scores(arrays).argmax(1).cpu().numpy())
        if server_round == 0:  # nothing is exposed yet
            return {}
        return self._evaluation.evaluate(
            (server_round - 1) // self._rounds, self._scores(arrays).cpu().numpy()
        )

    def _scores(self, arrays: ArrayRecord) -> torch.Tensor:
        weights = from_record(arrays)
        return torch.cat([self._model.scores(weights, features) for features in self._features()])

    def _features(self) -> Iterable[torch.Tensor]:
        """Expanded test samples: kept for the next round where they are not many."""
        if self._kept:
            return self._kept
        parts = map(self._model.features, self._parts)
        first = next(parts)
        if first.element_size() * first.shape[1] * len(self._labels) > KEPT_FEATURES:
            return chain([first], parts)
        self._kept = [first, *parts]
        return self._kept

    def summary(self) -> dict[str, Any]:
        """Return what the marks of all steps come to; nothing where there are no steps."""
        return self._evaluation.summary() if self._evaluation else {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return self._evaluation.state_dict() if self._evaluation else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` once returned."""
        if self._evaluation:
            self._evaluation.load_state_dict(state)


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
