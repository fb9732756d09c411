"""What privacy costs, by whom the noise is added: accuracy against epsilon under each kind of trust.

Every cell is a whole federation of `dp_afl` (under secure aggregation where trust is distributed) over the world of
its seed; AFL without noise on the same world is the line they are compared with. Each cell has a budget of its own.
"""

from __future__ import annotations

from itertools import product
from statistics import mean
from typing import Any

from flwr.app import ArrayRecord
from omegaconf import DictConfig

from experiments.config.compose import recompose
from experiments.runner.compare import build_world, make_grid, run_method
from experiments.studies.cells import Cells, Row, check_method, check_study
from fedlab.errors import unknown
from fedlab.privacy.mechanisms.gaussian import check_budget
from fedlab.privacy.ridge.guarantee import TRUST
from fedlab.tracking.run_directory import RunDirectory

METHODS = {"none": "afl", "central": "dp_afl", "local": "dp_afl", "distributed": "dp_secagg_afl"}


def tradeoff(cfg: DictConfig, directory: RunDirectory) -> dict[str, Any]:
    """Run `study.trust` x `study.epsilon` for every seed of `study.seeds`; return the results and the cells."""
    _check(cfg)
    cells = Cells(cfg, directory)
    runs: list[tuple[Row, ArrayRecord]] = []
    for seed in cfg.study.seeds:
        plain = _cell(directory, seed)
        everyone = build_world(plain, directory)
        with make_grid(plain, everyone) as grid:
            for trust, epsilon in [("none", None), *product(cfg.study.trust, cfg.study.epsilon)]:
                cell = plain if epsilon is None else _cell(directory, seed, trust=trust, epsilon=epsilon)
                account = f"{trust}, epsilon {epsilon}, seed {seed}"
                runs.append(run_method(cell, METHODS[trust], everyone, grid, directory, ledger=account))
                result, _ = runs[-1]
                row = {"trust": trust, "epsilon": epsilon, "seed": seed, "accuracy": result["accuracy"]}
                cells.add(row | {"seconds": result["seconds"]["total"]})
    result, model = runs[1]  # the first with noise
    summary = over_seeds(cells.rows, ("trust", "epsilon"))
    return cells.results("tradeoff", result, model, {"dp_afl": result}, delta=cfg.privacy.delta, summary=summary)


def over_seeds(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return one row for all seeds of a setting: the mean, the lowest and the highest accuracy, the mean loss.

    Args:
        rows: Rows with `accuracy` and `seed`; those without `epsilon` are what the others of their seed lose against.
        keys: Keys that make a setting.
    """
    plain = {row["seed"]: row["accuracy"] for row in rows if row["epsilon"] is None}
    settings: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        settings.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return [
        {
            **dict(zip(keys, setting, strict=True)),
            "accuracy": mean(row["accuracy"] for row in cells),
            "lowest": min(row["accuracy"] for row in cells),
            "highest": max(row["accuracy"] for row in cells),
            "points lost": round(100 * mean(plain[row["seed"]] - row["accuracy"] for row in cells), 2),
            "seeds": len(cells),
        }
        for setting, cells in settings.items()
    ]


def _check(cfg: DictConfig) -> None:
    study = cfg.study
    example = "study.trust=[central] study.epsilon=[1,8] study.seeds=[0,1,2]"
    check_study(cfg, example, "trust", "epsilon", "seeds")
    for epsilon in study.epsilon:
        check_budget(epsilon, cfg.privacy.delta)
    for trust in study.trust:
        if trust not in TRUST:
            raise unknown("study.trust", trust, TRUST)
        check_method(cfg, METHODS[trust], f"which trust={trust} is run by")
    check_method(cfg, "afl", "the line without noise")


def _cell(directory: RunDirectory, seed: int, **privacy: Any) -> DictConfig:
    """Return the run's config with another seed and guarantee."""
    return recompose(directory.path, [f"seed={seed}", *(f"privacy.{k}={v}" for k, v in privacy.items())])
