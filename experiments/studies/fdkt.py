"""FDKT: what a client gains from the server's texts, against local training alone, and what privacy costs it.

    gain = accuracy(private + w synthetic) - accuracy(private)        on the test texts of the client's own domain

Every cell is a whole federation: seed x epsilon x variant. A variant is a set of overrides of the config, so that an
ablation is written down and not coded. What each client makes of the texts it gets is measured as it would do it at
home, for several numbers of labelled texts; `upper` is its small model where all of its texts are labelled.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from statistics import mean, pstdev
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from hydra.utils import instantiate
from omegaconf import DictConfig

from clients.fdkt import FDKT
from experiments.config.compose import recompose
from experiments.runner.compare import build_world, describe
from experiments.studies.cells import Cells, Row, check_method, check_study, federation
from fedlab.engine.messages.records import from_record
from fedlab.errors import BadInput, unknown
from fedlab.tracking.run_directory import RunDirectory
from fedlab.world import World

METHOD = "fdkt"


def fdkt(cfg: DictConfig, directory: RunDirectory) -> dict[str, Any]:
    """Run every cell of `study`; return the first cell's results and the rows of all."""
    _check(cfg)
    cells = Cells(cfg, directory)
    federations: list[Row] = []
    runs: list[tuple[Row, ArrayRecord]] = []
    uppers: dict[tuple[int, str], float] = {}
    everyone = build_world(cfg, directory)  # the same texts for every seed, so that they are embedded once
    for variant, epsilon, seed in product(cfg.study.only or cfg.study.variants, cfg.study.epsilon, cfg.study.seeds):
        started = time.perf_counter()
        overrides = [*map(str, cfg.study.variants[variant] or []), f"seed={seed}", at(epsilon)]
        cell = recompose(directory.path, overrides)
        account = f"{variant}, epsilon {epsilon}, seed {seed}".replace("/", "-")
        runs.append(federation(cell, METHOD, everyone, directory, account))
        result, model = runs[-1]
        setting = {"variant": variant, "epsilon": epsilon, "seed": seed}
        metrics = result["metrics"]
        federations.append(
            setting
            | {"seconds": time.perf_counter() - started, "texts": metrics["texts"], "privacy": result["privacy"]}
            | {"dropped": metrics.get("dropped"), "usage": metrics.get("usage"), "stages": metrics.get("stages", [])}
        )
        for row in gains(cell, everyone, from_record(model), uppers):
            cells.add(setting | row)
    result, model = runs[0]
    study = {"delta": cfg.privacy.delta, "cells": federations, "summary": summary(cells.rows)}
    return cells.results("fdkt", result, model, {METHOD: result}, **study)


def gains(
    cfg: DictConfig, everyone: World, arrays: Mapping[str, np.ndarray], uppers: dict[tuple[int, str], float]
) -> Iterator[dict[str, Any]]:
    """Yield what each client's small model gets right, for each number of labelled texts of `study.labelled`.

    Args:
        cfg: Config of the cell.
        everyone: World whose clients learn, and whose test texts they are tested on.
        arrays: Texts of the server.
        uppers: Accuracy with all labels, by seed and domain; what is not there yet is added.
    """
    learner: FDKT = instantiate(describe(cfg, METHOD)["client"], num_classes=everyone.num_classes)
    dataset = everyone.federation.dataset
    tested = learner.domains(dataset.test)
    for who in range(everyone.federation.num_clients):
        x, labels = everyone.client(who)
        split = dataset.train.take(everyone.federation.parts[who])
        domain = str(learner.domains(split)[0])
        rows = np.flatnonzero(tested == domain)
        test = everyone.test[torch.from_numpy(rows)].numpy()
        texts = [str(text) for text in dataset.test.take(rows).inputs]
        truth = everyone.test_labels[torch.from_numpy(rows)].numpy()
        private = learner.private(x, labels, split, learner.of(cfg.seed, who))
        fits: dict[str, dict[str, Any]] = {}

        def right(kind: str, n: int, texts_of_server: Mapping[str, np.ndarray]) -> float:
            started = time.perf_counter()
            own = replace(private, labelled=min(n, len(private)))  # noqa: B023
            taught = learner.taught(own, texts_of_server, cfg.seed)
            fits[kind] = {**taught.report, "seconds": time.perf_counter() - started}  # noqa: B023
            scores = learner.small_model.scores(taught.weights, test, texts)  # noqa: B023
            return float((scores.argmax(1) == truth).mean())  # noqa: B023

        if (cfg.seed, domain) not in uppers:
            uppers[cfg.seed, domain] = right("upper", len(private), {})
        for n in cfg.study.labelled:
            local, augmented = right("local", n, {}), right("taught", n, arrays)
            yield {
                "domain": domain,
                "labelled": n,
                "local": local,
                "accuracy": augmented,
                "upper": uppers[cfg.seed, domain],
                "gain": augmented - local,
                "fits": dict(fits),
            }
            fits.clear()


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each setting and domain, and one for all domains: means over the seeds, the gain's spread."""
    settings: dict[tuple[Any, ...], list[Row]] = {}
    for row in [*rows, *(row | {"domain": "all"} for row in rows)]:
        setting = tuple(row[key] for key in ("variant", "epsilon", "labelled", "domain"))
        settings.setdefault(setting, []).append(row)
    means = []
    for (variant, epsilon, labelled, domain), mine in settings.items():
        seeds = sorted({row["seed"] for row in mine})
        # The spread is that of seeds: of each seed's mean over the domains.
        gains = [100 * mean(row["gain"] for row in mine if row["seed"] == seed) for seed in seeds]
        means.append(
            {
                "variant": variant,
                "epsilon": epsilon,
                "labelled": labelled,
                "domain": domain,
                **{key: mean(row[key] for row in mine) for key in ("local", "accuracy", "upper")},
                "points gained": round(mean(gains), 2),
                "spread": round(pstdev(gains), 2),
                "lowest gain": round(min(gains), 2),
                "highest gain": round(max(gains), 2),
                "seeds": len(seeds),
            }
        )
    return means


def at(epsilon: float | None) -> str:
    """Return the override that gives the method an epsilon; None adds no noise."""
    return f"methods.{METHOD}.epsilon={'null' if epsilon is None else epsilon}"


def _check(cfg: DictConfig) -> None:
    study = cfg.study
    example = "study.epsilon=[8] study.seeds=[0,1,2] study.labelled=[50]"
    check_study(cfg, example, "variants", "epsilon", "seeds", "labelled")
    for variant in study.only or ():
        if variant not in study.variants:
            raise unknown("variant of study.only", variant, study.variants)
    check_method(cfg, METHOD, "which this experiment runs")
    if any(n < 1 for n in study.labelled):
        raise BadInput(f"study.labelled={json.dumps(list(study.labelled))}: a client has at least 1 labelled text")
