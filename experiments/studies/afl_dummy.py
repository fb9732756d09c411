"""The dummy-data table of AFL: how far the aggregated head is from the joint one as clients grow.

    sum |W_agg - W_joint|        n samples of N(0, 1) with random labels, split evenly over k clients

The pairwise law as the paper states it stands beside the sums, with and without its regularisation
intermediary; both are timed in the same run. He et al., AFL, CVPR 2025, appendix, https://arxiv.org/abs/2405.16240.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from experiments.studies.afl_pairwise import aggregate, local_solution
from experiments.studies.cells import Cells, check_study
from fedlab import checks
from fedlab.errors import BadInput
from fedlab.stats import GramStats, one_hot, total_of
from fedlab.tracking.run_directory import RunDirectory


def dummy(cfg: DictConfig, directory: RunDirectory) -> dict[str, Any]:
    """Return the results with one row per number of clients."""
    check_study(cfg, "study.samples=10000 study.features=512 study.classes=10 study.clients=[10,100]", "clients")
    study = cfg.study
    _check(study)
    generator = torch.Generator().manual_seed(cfg.seed)
    x = torch.randn(study.samples, study.features, generator=generator, dtype=torch.float64)
    y = one_hot(torch.randint(study.classes, (study.samples,), generator=generator), study.classes)
    joint = torch.linalg.lstsq(x, y).solution
    heads = {"joint": joint}
    cells = Cells(cfg, directory)
    directory.event("method", method="afl", rounds=len(study.clients), clients=max(study.clients))
    for index, k in enumerate(study.clients):
        directory.tick(method="afl", round=index + 1, done=0, total=1)
        row, heads[f"clients_{k}"] = _row(x, y, joint, k, study.ridge)
        cells.add({"clients": k, **row})
    weights = {name: head.numpy() for name, head in heads.items()}
    worst = max(row["error"] for row in cells.rows)
    return cells.outcome("dummy", "AFL", max(study.clients), weights, worst_error=worst)


def _check(study: Any) -> None:
    for name in ("samples", "features", "classes"):
        checks.integer(f"study.{name}", study[name], least=1)
    for number in study.clients:
        checks.integer("study.clients", number, least=1)
    # The joint solution is least squares without ridge: it is one number only where the samples determine it.
    if study.samples < study.features:
        raise BadInput(f"study.samples={study.samples} is below study.features={study.features}: give at least as many")
    checks.number("study.ridge", study.ridge, above=0, remedy="each client's law is solved with it")


def _row(x: Tensor, y: Tensor, joint: Tensor, k: int, ridge: float) -> tuple[dict[str, float], Tensor]:
    parts = list(zip(x.tensor_split(k), y.tensor_split(k), strict=True))

    started = time.perf_counter()
    weight = total_of(GramStats.from_batch(*part) for part in parts).solve(0.0)
    seconds = time.perf_counter() - started

    started = time.perf_counter()
    paper = aggregate([local_solution(*part, ridge) for part in parts], ridge)
    paper_seconds = time.perf_counter() - started

    bare = aggregate([local_solution(*part, 0.0) for part in parts], 0.0)
    row = {
        "error": _distance(weight, joint),
        "pairwise_error": _distance(paper, joint),
        "pairwise_error_without_ridge": _distance(bare, joint),
        "seconds": seconds,
        "pairwise_seconds": paper_seconds,
    }
    return row, weight


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().sum())
