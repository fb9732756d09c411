"""The invariance study of AFL: clients x alpha, one head.

Every cell partitions the same samples anew (Dirichlet(alpha), or iid) and runs the whole federation. In exact
mode all cells must show one SHA-256; in float64 they agree to the head tolerance. He et al., AFL, CVPR 2025,
section 4.2, https://arxiv.org/abs/2405.16240.
"""

from __future__ import annotations

import itertools
from typing import Any

from flwr.app import ArrayRecord
from omegaconf import DictConfig

from experiments.runner.compare import build_world
from experiments.studies.cells import Cells, Row, changed, check_method, check_study, federation
from fedlab.errors import BadInput
from fedlab.tracking.run_directory import RunDirectory


def invariance(cfg: DictConfig, directory: RunDirectory) -> dict[str, Any]:
    """Run AFL in every cell of `study.clients` x `study.alpha`; return the results and the cells."""
    _check(cfg)
    cells = Cells(cfg, directory)
    runs: list[tuple[Row, ArrayRecord]] = []
    for clients, alpha in itertools.product(cfg.study.clients, cfg.study.alpha):
        cell = changed(cfg, {"clients": clients, "partition": _partition(alpha)})
        runs.append(federation(cell, "afl", build_world(cell, directory), directory))
        result, _ = runs[-1]
        figures = {key: result[key] for key in ("accuracy", "head_sha256", "statistics_sha256")}
        cells.add({"clients": clients, "alpha": alpha, **figures, "seconds": result["seconds"]["total"]})
    result, model = runs[0]
    return cells.results("invariance", result, model, {"afl": result}, heads=cells.heads("invariance is broken"))


def _check(cfg: DictConfig) -> None:
    check_method(cfg, "afl", "whose heads are compared: say methods=[afl]")
    check_study(cfg, "study.clients=[1,10] study.alpha=[0.1,iid]", "clients", "alpha")
    for alpha in cfg.study.alpha:
        if alpha != "iid" and not isinstance(alpha, (int, float)):
            raise BadInput(f"study.alpha={alpha} is neither a number > 0 nor iid: say study.alpha=[0.1,iid]")


def _partition(alpha: float | str) -> dict[str, Any]:
    if alpha == "iid":
        return {"_target_": "fedlab.data.partition.Iid"}
    return {"_target_": "fedlab.data.partition.Dirichlet", "alpha": float(alpha)}
