"""What studies share: the config's `study` is checked, cells are federations, and rows and a model are left behind."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from omegaconf import DictConfig, OmegaConf, open_dict
from safetensors.numpy import save

from experiments.runner.compare import make_grid, run_method
from fedlab.engine.messages.records import from_record
from fedlab.errors import BadInput
from fedlab.tracking.outcome import Outcome
from fedlab.tracking.run_directory import RunDirectory
from fedlab.world import World

Row = dict[str, Any]


def check_study(cfg: DictConfig, example: str, *parts: str) -> None:
    """Refuse a study that lacks one of its parts, and say an example of it."""
    if not OmegaConf.is_dict(cfg.study) or not all(cfg.study.get(part) for part in parts):
        raise BadInput(f"study={cfg.study} has no cell: say {example}")


def check_method(cfg: DictConfig, name: str, reason: str) -> None:
    """Refuse a config without a method that the study needs for this reason."""
    if name not in cfg.methods:
        raise BadInput(f"methods={list(cfg.methods)} lacks {name}, {reason}")


def changed(cfg: DictConfig, settings: Mapping[str, Any]) -> DictConfig:
    """Return a copy of a config in which some settings, by their keys, are others."""
    cell = OmegaConf.create(OmegaConf.to_container(cfg))
    assert isinstance(cell, DictConfig)
    with open_dict(cell):
        for key, value in settings.items():
            OmegaConf.update(cell, key, value, merge=False)
    return cell


def federation(
    cell: DictConfig, name: str, everyone: World, directory: RunDirectory, ledger: str | None = None
) -> tuple[Row, ArrayRecord]:
    """Run a method of a cell on a Grid of its own; return its result and its model."""
    with make_grid(cell, everyone) as grid:
        return run_method(cell, name, everyone, grid, directory, ledger=ledger)


class Cells:
    """The rows of a study, each an event as soon as it is known, and what the run directory shows in the end.

    Args:
        cfg: Config of the run.
        directory: Directory of the run.
    """

    def __init__(self, cfg: DictConfig, directory: RunDirectory):
        self._cfg, self._directory, self._started = cfg, directory, time.perf_counter()
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Keep a row, and tell of it."""
        self.rows.append(row)
        self._directory.event("cell", **row)

    def heads(self, otherwise: str) -> int:
        """Return how many different heads the rows have; warn, of what that means, of more than one in exact mode."""
        number = len({row["head_sha256"] for row in self.rows})
        if self._cfg.mode.value == "exact" and number > 1:
            message = f"{number} different heads in exact mode: {otherwise}"
            self._directory.event("warning", message=message)
        return number

    def results(self, kind: str, result: Row, model: ArrayRecord, methods: Mapping[str, Row], **study: Any) -> Row:
        """Save a federation's model; return its result with those of all methods, the rows and what else is given."""
        self._save(from_record(model), list(methods)[-1])
        return self.described(kind, result | {"methods": methods}, **study)

    def outcome(
        self, kind: str, strategy: str, clients: int, weights: Mapping[str, np.ndarray], **metrics: float
    ) -> Row:
        """Save weights; return the outcome of a study that ran no federation, with the rows."""
        self._save(weights, strategy.lower())
        seconds = {"total": time.perf_counter() - self._started}
        outcome = Outcome(strategy, self._cfg.seed, clients, 1, metrics=metrics, seconds=seconds)
        return self.described(kind, outcome.values())

    def described(self, kind: str, values: Row, **study: Any) -> Row:
        """Return the content of `results.json`: these values, the rows and what else the study has."""
        return {"experiment": self._cfg.name, **values, "study": {"kind": kind, "rows": self.rows, **study}}

    def _save(self, weights: Mapping[str, np.ndarray], method: str) -> None:
        self._directory.write_bytes("model.safetensors", save(dict(weights), metadata={"method": method}))
