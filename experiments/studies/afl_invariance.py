"""The invariance study of AFL: clients x alpha, one head.

Every cell partitions the same samples anew (Dirichlet(alpha), or iid) and runs the whole federation. In exact
mode all cells must show one SHA-256; in float64 they agree to the head tolerance. He et al., AFL, CVPR 2025,
section 4.2, https://arxiv.org/abs/2405.16240.
"""

from __future__ import annotations

import itertools
from typing import Any

from flwr.app import ArrayRecord
from omegaconf import DictConfig, OmegaConf, open_dict
from safetensors.numpy import save

from experiments.runner.compare import build_world, make_grid, run_method
from fedlab.engine.messages.records import from_record
from fedlab.errors import BadInput
from fedlab.tracking.run_directory import RunDirectory


def invariance(cfg: DictConfig, directory: RunDirectory) -> dict[str, Any]:
    """Run AFL in every cell of `study.clients` x `study.alpha`; return the results and the cells."""
    _check(cfg)
    rows: list[dict[str, Any]] = []
    first: tuple[dict[str, Any], ArrayRecord] | None = None
    for clients, alpha in itertools.product(cfg.study.clients, cfg.study.alpha):
        cell = _cell(cfg, clients, alpha)
        everyone = build_world(cell, directory)
        with make_grid(cell, everyone) as grid:
            result, model = run_method(cell, "afl", everyone, grid, directory)
        first = first or (result, model)
        rows.append(
            {
                "clients": clients,
                "alpha": alpha,
                "accuracy": result["accuracy"],
                "head_sha256": result["head_sha256"],
                "statistics_sha256": result["statistics_sha256"],
                "seconds": result["seconds"]["total"],
            }
        )
        directory.event("cell", **rows[-1])
    assert first is not None
    result, model = first
    directory.write_bytes("model.safetensors", save(from_record(model), metadata={"method": "afl"}))
    heads = {row["head_sha256"] for row in rows}
    if cfg.mode.value == "exact" and len(heads) > 1:
        directory.event(
            "warning", message=f"{len(heads)} different heads in exact mode: invariance is broken"
        )
    return {
        "experiment": cfg.name,
        **result,
        "methods": {"afl": result},
        "study": {"kind": "invariance", "heads": len(heads), "rows": rows},
    }


def _check(cfg: DictConfig) -> None:
    if "afl" not in cfg.methods:
        raise BadInput(
            f"methods={list(cfg.methods)} lacks afl: the study compares heads of afl, say methods=[afl]"
        )
    if cfg.study is None or not (cfg.study.clients and cfg.study.alpha):
        raise BadInput(f"study={cfg.study} has no cell: say study.clients=[1,10] study.alpha=[0.1,iid]")
    for alpha in cfg.study.alpha:
        if alpha != "iid" and not isinstance(alpha, (int, float)):
            raise BadInput(f"study.alpha={alpha} is neither a number > 0 nor iid: say study.alpha=[0.1,iid]")


def _cell(cfg: DictConfig, clients: int, alpha: float | str) -> DictConfig:
    cell = OmegaConf.create(OmegaConf.to_container(cfg))
    assert isinstance(cell, DictConfig)
    with open_dict(cell):
        cell.clients = clients
        cell.partition = (
            {"_target_": "fedlab.data.partition.Iid"}
            if alpha == "iid"
            else {"_target_": "fedlab.data.partition.Dirichlet", "alpha": float(alpha)}
        )
    return cell
