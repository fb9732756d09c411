"""The phases study of ACIL: one stream cut into few or many phases, one head.

Every cell cuts the same samples into `study.phases` phases and runs the whole federation over them. In exact mode
all cells must end with one SHA-256; in float64 with heads whose relative difference the rounding allows.
Zhuang et al., ACIL, NeurIPS 2022, theorem 1, https://arxiv.org/abs/2205.14922.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf, open_dict
from safetensors.numpy import save

from experiments.runner.compare import build_world, make_grid, run_method
from fedlab.engine.messages.records import from_record
from fedlab.errors import BadInput
from fedlab.tracking.run_directory import RunDirectory


def phases(cfg: DictConfig, directory: RunDirectory) -> dict[str, Any]:
    """Run the one method of the config over each of `study.phases`; return the results and the cells."""
    name = _check(cfg)
    rows: list[dict[str, Any]] = []
    heads: list[np.ndarray] = []
    methods: dict[str, dict[str, Any]] = {}
    for number in cfg.study.phases:
        cell = _cell(cfg, number)
        everyone = build_world(cell, directory)
        with make_grid(cell, everyone) as grid:
            result, model = run_method(cell, name, everyone, grid, directory)
        label = f"{name}, {number} {'phase' if number == 1 else 'phases'}"
        methods[label] = result
        heads.append(np.concatenate([array.ravel() for array in from_record(model).values()]))
        rows.append(
            {
                "phases": number,
                "accuracy": result["accuracy"],
                "head_sha256": result["head_sha256"],
                "statistics_sha256": result["statistics_sha256"],
                "difference": float(np.linalg.norm(heads[-1] - heads[0]) / np.linalg.norm(heads[0])),
                "condition": result["metrics"].get("condition"),
                "seconds": result["seconds"]["total"],
            }
        )
        directory.event("cell", **rows[-1])
        directory.write_bytes("model.safetensors", save(from_record(model), metadata={"method": label}))
    different = len({row["head_sha256"] for row in rows})
    if cfg.mode.value == "exact" and different > 1:
        message = f"{different} different heads in exact mode: the phases leave a trace"
        directory.event("warning", message=message)
    return {
        "experiment": cfg.name,
        **next(iter(methods.values())),
        "methods": methods,
        "study": {"kind": "phases", "heads": different, "rows": rows},
    }


def _check(cfg: DictConfig) -> str:
    if len(cfg.methods) != 1:
        raise BadInput(f"methods={list(cfg.methods)}: the study follows one method, say methods=[acil]")
    given = OmegaConf.to_container(cfg.study) if cfg.study else None
    numbers = given.get("phases") if isinstance(given, dict) else None
    if not (isinstance(numbers, list) and numbers and all(isinstance(n, int) and n >= 1 for n in numbers)):
        raise BadInput(f"study={given} names no numbers of phases >= 1: say study.phases=[1,5,50,500]")
    if cfg.stream is None or not cfg.stream["_target_"].endswith(".SampleIncremental"):
        raise BadInput(
            f"stream={cfg.stream}: the study cuts samples into phases, say stream=sample_incremental"
        )
    return next(iter(cfg.methods))


def _cell(cfg: DictConfig, number: int) -> DictConfig:
    cell = OmegaConf.create(OmegaConf.to_container(cfg))
    assert isinstance(cell, DictConfig)
    with open_dict(cell):
        cell.stream.phases = number
    return cell
