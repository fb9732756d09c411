"""Clients leave: the deletion beside the federation that runs again without them.

    W' = solve(S - sum of those who leave)        again: the federation in which they hold nothing        W' = W''

`study.leave` of the clients leave, drawn by the seed among those who have samples. The run keeps its clients'
statistics in its directory, so that more may leave later: `fedlab unlearn`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.runner.compare import build_world, describe
from experiments.runner.deletion import chosen, kept_by, settle
from experiments.studies.cells import changed, federation
from fedlab import checks
from fedlab.data.partition import Partition
from fedlab.engine.aggregation.server_evaluation import ServerEvaluator
from fedlab.engine.messages.records import to_record
from fedlab.errors import BadInput
from fedlab.randomness import rng_for
from fedlab.tracking.run_directory import RunDirectory


@dataclass(frozen=True)
class Without:
    """Another partition, but that some clients hold nothing; the others hold what they held.

    Args:
        partition: Partition that deals the samples.
        clients: Clients that hold nothing.
    """

    partition: Partition
    clients: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "clients", tuple(self.clients))  # a config has lists, and a key must be hashable

    def split(
        self, labels: np.ndarray, groups: Mapping[str, np.ndarray], clients: int | None, seed: int
    ) -> list[np.ndarray]:
        """Return k arrays of rows; those of who left are in none of them."""
        parts = self.partition.split(labels, groups, clients, seed)
        return [part[:0] if client in self.clients else part for client, part in enumerate(parts)]


def unlearning(cfg: DictConfig, directory: RunDirectory) -> dict[str, Any]:
    """Run the method, delete clients, run it again without them; return the results and the three heads."""
    name = _check(cfg)
    everyone = build_world(cfg, directory)
    before, _ = federation(cfg, name, everyone, directory)
    leaving = drawn(cfg, everyone.federation.sizes)

    kept = kept_by(cfg, name, directory.path)
    started = time.perf_counter()
    certificate = kept.delete(leaving)
    seconds = time.perf_counter() - started
    settle(kept, directory.path, name)
    model = instantiate(describe(cfg, name)["client"], num_classes=everyone.num_classes)
    metrics = ServerEvaluator(model, everyone, rounds=1)(1, to_record({"weight": kept.head()}))

    cell = without(cfg, name, leaving)
    again, _ = federation(cell, name, build_world(cell, directory), directory)
    equal = again["head_sha256"] == certificate.head_after
    if certificate.tolerance == 0 and not equal:
        directory.event("warning", message="the deletion left another head than the federation without them")
    samples = before["metrics"]["samples"]
    deleted = {"accuracy": metrics["accuracy"], "head_sha256": certificate.head_after, "seconds": {"total": seconds}}
    rows = [
        _row("everyone", samples, before),
        _row(f"{len(leaving)} clients deleted", samples - certificate.samples, deleted),
        _row("run again without them", again["metrics"]["samples"], again),
    ]
    for row in rows:
        directory.event("cell", **row)
    directory.write_json("label_counts.json", everyone.federation.label_counts().tolist())
    return {
        "experiment": cfg.name,
        **before,
        "methods": {name: before, f"{name} without them": again},
        "study": {
            "clients": leaving,
            "equal": equal,
            "times_as_fast": again["seconds"]["total"] / seconds,
            "certificate": certificate.values(),
            "rows": rows,
        },
    }


def _row(what: str, samples: int, result: Mapping[str, Any]) -> dict[str, Any]:
    figures = {key: result[key] for key in ("accuracy", "head_sha256")}
    return {"model": what, "samples": samples, **figures, "seconds": result["seconds"]["total"]}


def _check(cfg: DictConfig) -> str:
    if not OmegaConf.is_dict(cfg.study) or "leave" not in cfg.study:
        raise BadInput(f"study={cfg.study} does not say how many leave: say study.leave=0.01")
    checks.share("study.leave", cfg.study.leave)
    if cfg.stream is not None:
        raise BadInput("the study follows one round, without a stream: fedlab unlearn deletes from streams too")
    return chosen(cfg, {})


def drawn(cfg: DictConfig, sizes: np.ndarray) -> list[int]:
    """Return who leaves: `study.leave` of the clients, drawn by the seed among those with samples."""
    holders = np.flatnonzero(sizes)
    number = max(1, round(cfg.study.leave * len(sizes)))
    if number >= len(holders):
        raise BadInput(
            f"study.leave={cfg.study.leave} of {len(sizes)} clients are {number}, and {len(holders)} have samples: "
            "somebody must stay"
        )
    return sorted(rng_for(cfg.seed, "departures").choice(holders, number, replace=False).tolist())


def without(cfg: DictConfig, name: str, leaving: list[int]) -> DictConfig:
    """Return the config of the federation in which these hold nothing."""
    partition = {"_target_": f"{Without.__module__}.{Without.__name__}", "partition": cfg.partition, "clients": leaving}
    # Without keeping anything, it is as fast as it runs.
    return changed(cfg, {f"methods.{name}.strategy.keep_clients": None, "partition": partition})
