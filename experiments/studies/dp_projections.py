"""Which features to noise: all of them, fewer by a public projection, or C alone beside a public Gram.

The samples of both splits are pooled once and cut anew for each seed into private training rows, rows declared
public, and test rows; so one extraction of the features serves all seeds. One release, central trust: the sums of
the pooled rows are those of any federation (`tests/conformance`), so none is run.

Loss is in points of accuracy against the head without noise over all features, on the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from clients.dp_afl import DPAFL
from experiments.runner.compare import build_world
from experiments.studies.cells import Cells, check_study
from experiments.studies.dp_tradeoff import over_seeds
from fedlab.analytic import Analytic
from fedlab.errors import BadInput
from fedlab.privacy.ridge.guarantee import Guarantee
from fedlab.privacy.ridge.projection import principal, random_directions
from fedlab.randomness import rng_for
from fedlab.tracking.outcome import Outcome
from fedlab.tracking.run_directory import RunDirectory


def projections(cfg: DictConfig, directory: RunDirectory) -> dict[str, Any]:
    """Measure every projection at every epsilon of the study, seed by seed; return results and rows."""
    example = "study.epsilon=[1,8] study.seeds=[0,1] study.train=15000 study.public=2000"
    check_study(cfg, example, "epsilon", "seeds", "train", "public")
    everyone = build_world(cfg, directory)
    x = torch.cat([everyone.train, everyone.test]).to(torch.float64)
    labels = torch.cat([everyone.train_labels, everyone.test_labels])
    cells = Cells(cfg, directory)
    for seed in cfg.study.seeds:
        parts = _cut(labels, cfg.study.train, cfg.study.public, seed)
        train, public, test = ((x[part], labels[part]) for part in parts)
        head = Analytic(everyone.num_classes, mode="float64")
        plain = _accuracy(head, head.observe(*train).solve(cfg.ridge), *test)
        none = {"projection": "none", "width": x.shape[1], "epsilon": None, "seed": seed, "accuracy": plain}
        cells.rows.append(none)
        for name, needs, project in _candidates(cfg, x.shape[1], public[0], seed):
            for epsilon in cfg.study.epsilon:
                guarantee = Guarantee(epsilon, cfg.privacy.delta, cfg.privacy.clip)
                accuracy = _private(everyone.num_classes, guarantee, name, project, public[0], train, test, seed)
                row = {"projection": name, "public": needs, "width": project.shape[1]}
                cells.add(row | {"epsilon": epsilon, "seed": seed, "accuracy": accuracy})
    first = next(row for row in cells.rows if row["epsilon"] is not None)
    outcome = Outcome("projections", cfg.seed, everyone.federation.num_clients, 1, accuracy=first["accuracy"])
    study = {"delta": cfg.privacy.delta, "train": cfg.study.train}
    summary = over_seeds(cells.rows, ("projection", "width", "public", "epsilon"))
    return cells.described("projections", outcome.values() | {"methods": {}}, **study, summary=summary)


def _cut(labels: Tensor, train: int, public: int, seed: int) -> list[Tensor]:
    """Return rows for training, rows declared public, and the rest for the test."""
    n = len(labels)
    if not 0 < train + public < n:
        raise BadInput(f"study.train={train} and study.public={public} leave no test rows of {n}: lower them")
    order = torch.from_numpy(rng_for(seed, "private, public and test rows").permutation(n))
    return list(order.split([train, public, n - train - public]))


def _candidates(cfg: DictConfig, d0: int, public: Tensor, seed: int) -> Iterator[tuple[str, str, Tensor]]:
    """Yield names, the public data that each needs, and the matrices."""
    nothing, some = "none", f"{len(public)} rows"
    yield "all features", nothing, torch.eye(d0, dtype=torch.float64)
    yield "public Gram", some, torch.eye(d0, dtype=torch.float64)
    for width in cfg.study.widths:
        if width < d0:
            yield f"principal {width}", some, principal(public, width)
            rng = rng_for(seed, f"random directions {width}")
            yield f"random {width}", nothing, random_directions(d0, width, rng)


def _private(
    num_classes: int,
    guarantee: Guarantee,
    name: str,
    project: Tensor,
    public: Tensor,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    seed: int,
) -> float:
    learner = DPAFL(num_classes, mode="float64", guarantee=guarantee)
    sums = learner.observe(train[0] @ project, train[1])
    rng = rng_for(seed, f"noise {name} {guarantee.epsilon}")
    if name == "public Gram":
        rows = learner.expand(public @ project)[0]
        # Without a count the head is known up to a factor, which no argmax sees: the Gram's scale is free.
        noisy = guarantee.noised_cross(sums, rows.T @ rows / len(rows), rng)
        # The ridge is the mean eigenvalue of the public Gram: directions with less energy carry mostly noise.
        weight = noisy.solve(float(noisy.gram.diagonal().mean()))
    else:
        weight = guarantee.noised(sums, rng).solve("noise")
    return _accuracy(learner, weight, test[0] @ project, test[1])


def _accuracy(learner: Analytic, weight: Tensor, x: Tensor, labels: Tensor) -> float:
    return float((learner.predict(weight, x) == labels).to(torch.float64).mean())
