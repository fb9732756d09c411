"""The phases study of ACIL: one stream cut into few or many phases, one head.

Every cell cuts the same samples into `study.phases` phases and runs the whole federation over them. In exact mode
all cells must end with one SHA-256; in float64 with heads whose relative difference the rounding allows.
Zhuang et al., ACIL, NeurIPS 2022, theorem 1, https://arxiv.org/abs/2205.14922.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from omegaconf import DictConfig

from experiments.runner.compare import build_world
from experiments.studies.cells import Cells, Row, changed, check_study, federation
from fedlab import checks
from fedlab.engine.messages.records import from_record
from fedlab.errors import BadInput
from fedlab.tracking.run_directory import RunDirectory


def phases(cfg: DictConfig, directory: RunDirectory) -> dict[str, Any]:
    """Run the one method of the config over each of `study.phases`; return the results and the cells."""
    name = _check(cfg)
    cells = Cells(cfg, directory)
    heads: list[np.ndarray] = []
    methods: dict[str, Row] = {}
    model = ArrayRecord()
    for number in cfg.study.phases:
        cell = changed(cfg, {"stream.phases": number})
        result, model = federation(cell, name, build_world(cell, directory), directory)
        methods[f"{name}, {number} {'phase' if number == 1 else 'phases'}"] = result
        heads.append(np.concatenate([array.ravel() for array in from_record(model).values()]))
        figures = {key: result[key] for key in ("accuracy", "head_sha256", "statistics_sha256")}
        difference = float(np.linalg.norm(heads[-1] - heads[0]) / np.linalg.norm(heads[0]))
        solve = {"difference": difference, "condition": result["metrics"].get("condition")}
        cells.add({"phases": number, **figures, **solve, "seconds": result["seconds"]["total"]})
    first = next(iter(methods.values()))
    return cells.results("phases", first, model, methods, heads=cells.heads("the phases leave a trace"))


def _check(cfg: DictConfig) -> str:
    if len(cfg.methods) != 1:
        raise BadInput(f"methods={list(cfg.methods)}: the study follows one method, say methods=[acil]")
    example = "study.phases=[1,5,50,500]"
    check_study(cfg, example, "phases")
    for number in cfg.study.phases:
        checks.integer("study.phases", number, least=1, remedy=f"say {example}")
    if cfg.stream is None or not cfg.stream["_target_"].endswith(".SampleIncremental"):
        raise BadInput(f"stream={cfg.stream}: the study cuts samples into phases, say stream=sample_incremental")
    return next(iter(cfg.methods))
