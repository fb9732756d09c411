"""What privacy costs, by whom the noise is added: accuracy against epsilon under each kind of trust.

Every cell is a whole federation of `dp_afl` (under secure aggregation where trust is distributed) over the world of
its seed; AFL without noise on the same world is the line they are compared with. Each cell has a budget of its own.
"""

from __future__ import annotations

from statistics import mean
from typing import Any

from flwr.app import ArrayRecord
from omegaconf import DictConfig
from safetensors.numpy import save

from experiments.runner.compare import build_world, make_grid, run_method
from experiments.runner.compose import recompose
from fedlab.engine.messages.records import from_record
from fedlab.errors import BadInput, unknown
from fedlab.privacy.mechanisms.gaussian import check_budget
from fedlab.privacy.ridge.guarantee import TRUST
from fedlab.tracking.run_directory import RunDirectory

METHODS = {"central": "dp_afl", "local": "dp_afl", "distributed": "dp_secagg_afl"}


def tradeoff(cfg: DictConfig, directory: RunDirectory) -> dict[str, Any]:
    """Run `study.trust` x `study.epsilon` for every seed of `study.seeds`; return the results and the cells."""
    _check(cfg)
    rows: list[dict[str, Any]] = []
    first: tuple[dict[str, Any], ArrayRecord] | None = None
    for seed in cfg.study.seeds:
        plain = _cell(directory, seed)
        everyone = build_world(plain, directory)
        with make_grid(plain, everyone) as grid:

            def measure(
                cell: DictConfig, name: str, trust: str, epsilon: float | None, seed: int = seed
            ) -> tuple[dict[str, Any], ArrayRecord]:
                account = f"{trust}, epsilon {epsilon}, seed {seed}"
                found = run_method(cell, name, everyone, grid, directory, ledger=account)  # noqa: B023 - in this turn
                row = {"trust": trust, "epsilon": epsilon, "seed": seed, "accuracy": found[0]["accuracy"]}
                rows.append(row | {"seconds": found[0]["seconds"]["total"]})
                directory.event("cell", **rows[-1])
                return found

            measure(plain, "afl", "none", None)
            for trust in cfg.study.trust:
                for epsilon in cfg.study.epsilon:
                    cell = _cell(directory, seed, trust=trust, epsilon=epsilon)
                    found = measure(cell, METHODS[trust], trust, epsilon)
                    first = first or found
    assert first is not None
    result, model = first
    directory.write_bytes("model.safetensors", save(from_record(model), metadata={"method": "dp_afl"}))
    return {
        "experiment": cfg.name,
        **result,
        "methods": {"dp_afl": result},
        "study": {
            "kind": "tradeoff",
            "delta": cfg.privacy.delta,
            "rows": rows,
            "summary": over_seeds(rows, ("trust", "epsilon")),
        },
    }


def over_seeds(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return one row for all seeds of a setting: the mean, the lowest and the highest accuracy, the mean loss.

    Parameters
    ----------
    rows
        With `accuracy` and `seed`; those without `epsilon` are what the others of their seed lose against.
    keys
        What makes a setting.
    """
    plain = {row["seed"]: row["accuracy"] for row in rows if row["epsilon"] is None}
    settings: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        settings.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return [
        {
            **dict(zip(keys, setting, strict=True)),
            "accuracy": mean(row["accuracy"] for row in found),
            "lowest": min(row["accuracy"] for row in found),
            "highest": max(row["accuracy"] for row in found),
            "points lost": round(100 * mean(plain[row["seed"]] - row["accuracy"] for row in found), 2),
            "seeds": len(found),
        }
        for setting, found in settings.items()
    ]


def _check(cfg: DictConfig) -> None:
    study = cfg.study
    if study is None or not (study.trust and study.epsilon and study.seeds):
        raise BadInput(
            f"study={study} has no cell: say study.trust=[central] study.epsilon=[1,8] study.seeds=[0,1,2]"
        )
    for epsilon in study.epsilon:
        check_budget(epsilon, cfg.privacy.delta)
    for trust in study.trust:
        if trust not in TRUST:
            raise unknown("study.trust", trust, TRUST)
        if METHODS[trust] not in cfg.methods:
            raise BadInput(
                f"methods={list(cfg.methods)} lacks {METHODS[trust]}, which trust={trust} is run by"
            )
    if "afl" not in cfg.methods:
        raise BadInput(f"methods={list(cfg.methods)} lacks afl, the line without noise")


def _cell(directory: RunDirectory, seed: int, **privacy: Any) -> DictConfig:
    """Return the run's config with another seed and promise."""
    return recompose(directory.path, [f"seed={seed}", *(f"privacy.{k}={v}" for k, v in privacy.items())])
