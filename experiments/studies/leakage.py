"""The leakage study: what attacks read off the uploads of AFL, as they are, with noise, and in a secure sum.

    leaked = (success - chance) / (1 - chance)

Features, class histograms and membership (`fedlab.audit`), each on every view of the same samples: an upload as the
client sends it, of a client that has few samples and a policy, masked, as a part of a secure sum, with a client's
own noise (local) and with noise on the sum (central). The test split is what an attacker knows of the population.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from experiments.runner.compare import build_world, describe
from experiments.studies.adversary_views import SUMMED, Scene, alike, paired
from experiments.studies.cells import Cells, Row, check_method
from fedlab import checks
from fedlab.audit.histogram import agreement, histogram, shares
from fedlab.audit.membership import Shadow, from_head, known_others, unknown_others
from fedlab.audit.reconstruction import best_cosine, directions, informed, random_cosine
from fedlab.audit.success import Estimate, advantage_cap, distinguish, gain, leaked
from fedlab.errors import BadInput
from fedlab.privacy.mechanisms.gaussian import check_budget
from fedlab.stats import one_hot
from fedlab.tracking.run_directory import RunDirectory

DRAWS = 20
"""Sets of random directions that each client's rows are compared with."""


def leakage(cfg: DictConfig, directory: RunDirectory) -> dict[str, Any]:
    """Return the results with one row per attack, view and epsilon."""
    _check(cfg)
    everyone = build_world(cfg, directory)
    learner = instantiate(describe(cfg, "afl")["client"], num_classes=everyone.num_classes)
    scene = Scene.of(cfg, learner, everyone)
    attacks = (_features, _clients_features, _histograms, _known_others, _unknown_others, _heads)
    directory.event("method", method="leakage", rounds=len(attacks), clients=cfg.clients)
    cells = Cells(cfg, directory)
    for index, attack in enumerate(attacks):
        directory.tick("progress", method="leakage", round=index + 1, done=0, total=1)
        for row in attack(scene):
            cells.add(row)
    head = scene.total(slice(None)).solution(float(cfg.ridge)).weight
    largest = max(row["leaked"] for row in cells.rows)
    weights = {"weight": head.numpy()}
    return cells.outcome("leakage", "AFL", everyone.federation.num_clients, weights, largest_leak=largest)


def _features(scene: Scene) -> list[Row]:
    """Clients of one sample; chance is the upload of another client with a sample of the same class."""
    rng, study = scene.rng("features"), scene.study
    order = torch.from_numpy(rng.permutation(len(scene.x)))
    targets, rest = order[: study.targets], order[study.targets :]
    targets, partner = paired(targets, scene.labels)
    labels, truths = scene.labels[targets].tolist(), list(scene.x[targets, None])
    shares_of = scene.public.shares.tolist()
    views = scene.views(rest, rng)
    few = f"below {study.min_samples}"
    views[few, None] = lambda rows: scene.upload(rows, study.min_samples)
    rows: list[Row] = []
    for (view, epsilon), seen in views.items():
        uploads = [seen(rows) for rows in targets[:, None]]
        summed = view in SUMMED
        read = [directions(upload, study.tries) for upload in uploads]
        rows.append(_cosine_row("feature", view, epsilon, read, read, truths, partner, rng))
        if view == few:
            continue  # there is nothing to be informed about
        counts = [1 + len(rest) * shares_of[y] if summed else 1.0 for y in labels]

        def guess(i: int, j: int, uploads: list = uploads, counts: list = counts) -> Tensor:
            """What upload j says of client i."""
            return informed(uploads[j], labels[i], scene.public, counts[i])

        own = [guess(i, i) for i in range(len(labels))]
        other = [guess(i, j) for i, j in enumerate(partner)]
        aligned = [*range(len(labels))]
        rows.append(_cosine_row("feature, informed", view, epsilon, own, other, truths, aligned, rng))
    return rows


def _clients_features(scene: Scene) -> list[Row]:
    """The clients that answer under the policy; chance is the upload of the next."""
    rng = scene.rng("clients")
    truths = [scene.x[part] for part in scene.parts]
    partner = [*range(1, len(truths)), 0]
    least = scene.study.min_samples
    read = [directions(scene.upload(part, least), scene.study.tries) for part in scene.parts]
    return [_cosine_row("feature", f"at least {least}", None, read, read, truths, partner, rng)]


def _histograms(scene: Scene) -> list[Row]:
    """Class shares of whole clients; chance is what is known of any client."""
    rng, c, n = scene.rng("histograms"), scene.sender.num_classes, len(scene.x)
    prior = scene.public.shares
    truths = [shares(torch.bincount(scene.labels[part], minlength=c), prior) for part in scene.parts]
    spread = torch.stack(truths).var(0)
    guessed = np.array([agreement(prior, truth) for truth in truths])

    def row(view: str, epsilon: float | None, guesses: list[Tensor]) -> Row:
        got = np.array([agreement(*pair) for pair in zip(guesses, truths, strict=True)])
        means = float(got.mean()), float(guessed.mean())
        return _row("histogram", view, epsilon, *means, gain(got, guessed, rng))

    rows = [row("plain", None, truths)]  # AFL sends the counts
    everything = torch.arange(n)
    for (view, epsilon), seen in scene.views(everything, rng).items():
        guesses = []
        for part in scene.parts:
            # Of a sum: the client is in it already.
            upload, samples = (seen(everything[:0]), n) if view in SUMMED else (seen(part), len(part))
            guesses.append(histogram(upload, samples, scene.public, spread, len(part) / samples))
        rows.append(row("plain, no counts" if view == "plain" else view, epsilon, guesses))
    return rows


def _known_others(scene: Scene) -> list[Row]:
    """Membership, where all else that is in an upload is known: what is left is the sample, or nothing."""
    rng, rows = scene.rng("known others"), list[Row]()
    candidates = torch.from_numpy(rng.permutation(len(scene.x))[: scene.study.candidates])
    nothing = candidates[:0]
    views = scene.views(nothing, rng)
    for (view, epsilon), seen in views.items():
        targets = one_hot(scene.labels[candidates], scene.sender.num_classes)
        inside, outside = (
            np.array(
                [known_others(seen(rows), scene.x[i], y) for i, rows, y in zip(candidates, sets, targets, strict=True)]
            )
            for sets in (candidates[:, None], [nothing] * len(candidates))
        )
        rows.append(_membership_row(scene, "member, others known", view, epsilon, inside, outside, rng))
    return rows


def _unknown_others(scene: Scene) -> list[Row]:
    """Membership from statistics, where of the others only the population is known."""
    rng, rows = scene.rng("unknown others"), list[Row]()
    each = max(1, scene.study.candidates // len(scene.parts))
    pairs = [(part, *alike(part, scene.labels, each, rng)) for part in scene.parts]
    for (view, epsilon), seen in scene.views(torch.arange(0), rng).items():
        if view in SUMMED:
            continue
        scores: list[list[np.ndarray]] = [[], []]
        for part, *candidates in pairs:
            upload = seen(part)
            for kind, some in zip(scores, candidates, strict=True):
                kind.append(unknown_others(upload, len(part), scene.x[some], scene.public))
        inside, outside = (np.concatenate(kind) for kind in scores)
        rows.append(_membership_row(scene, "member, others unknown", view, epsilon, inside, outside, rng))
    return rows


def _heads(scene: Scene) -> list[Row]:
    """Membership in the sum over half of the samples: from the statistics, and from the head alone."""
    rng, study, n = scene.rng("heads"), scene.study, len(scene.x)
    candidates = torch.from_numpy(rng.permutation(n)[: study.candidates])
    x, y = scene.x[candidates], one_hot(scene.labels[candidates], scene.sender.num_classes)
    halves = [torch.from_numpy(rng.permutation(n) < n // 2) for _ in range(study.halves + study.shadows)]
    totals = [scene.total(half) for half in halves]
    views: list[tuple[str, float | None, int]] = [("secure sum", None, 1)]
    views += [("central noise", e, 1) for e in study.epsilons]
    views += [("local noise", e, scene.clients) for e in study.epsilons]
    rows: list[Row] = []
    for view, epsilon, releases in views:
        seen = totals if epsilon is None else [scene.noisy(t, epsilon, rng, releases) for t in totals]
        ridge = scene.ridge if epsilon is None else "noise"
        shadows = [
            Shadow.of(upload, ridge, x, y, half[candidates])
            for upload, half in zip(seen[study.halves :], halves[study.halves :], strict=True)
        ]
        member = torch.stack([half[candidates] for half in halves[: study.halves]]).numpy()
        by_head = np.stack([from_head(u.solve(ridge), shadows, x) for u in seen[: study.halves]])
        by_sums = np.stack([unknown_others(u, n // 2, x, scene.public) for u in seen[: study.halves]])
        scores = {"member, from the head": by_head}
        if releases == 1:
            scores["member, others unknown"] = by_sums
        for attack, score in scores.items():
            rows.append(_membership_row(scene, attack, view, epsilon, score[member], score[~member], rng))
    return rows


def _cosine_row(
    attack: str,
    view: str,
    epsilon: float | None,
    own: list[Tensor],
    other: list[Tensor],
    truths: list[Tensor],
    partner: list[int],
    rng: np.random.Generator,
) -> Row:
    """Compare what a client's own upload says of its rows with what its partner's says."""
    with_it = np.array([best_cosine(guess, truth) for guess, truth in zip(own, truths, strict=True)])
    without = np.array([best_cosine(other[j], truth) for j, truth in zip(partner, truths, strict=True)])
    seed = torch.Generator().manual_seed(int(rng.integers(2**63)))
    pairs = zip(own, truths, strict=True)
    by_luck = np.mean([random_cosine(truth, len(guess), DRAWS, seed) for guess, truth in pairs])
    gained = gain(with_it, without, rng)
    return _row(attack, view, epsilon, float(with_it.mean()), float(without.mean()), gained, random=float(by_luck))


def _membership_row(
    scene: Scene,
    attack: str,
    view: str,
    epsilon: float | None,
    inside: np.ndarray,
    outside: np.ndarray,
    rng: np.random.Generator,
) -> Row:
    success = distinguish(inside, outside, rng)
    more: Row = {"advantage": success.advantage.value, "tpr_at_1": success.sure.value}
    if epsilon is not None:
        more["cap"] = advantage_cap(epsilon, scene.study.delta)
    auc = success.auc
    gained = Estimate(*(leaked(bound, 0.5) for bound in (auc.value, auc.low, auc.high)))
    return _row(attack, view, epsilon, auc.value, 0.5, gained, **more)


def _row(
    attack: str, view: str, epsilon: float | None, success: float, chance: float, gained: Estimate, **more: float
) -> Row:
    """Four digits: the intervals, of what leaked, are far wider."""
    numbers = {"success": success, "chance": chance, "leaked": gained.value, "low": gained.low, "high": gained.high}
    figures = {key: round(value, 4) for key, value in (numbers | more).items()}
    return {"attack": attack, "view": view, "epsilon": epsilon, **figures}


def _check(cfg: DictConfig) -> None:
    study = cfg.study
    check_method(cfg, "afl", "whose uploads are attacked: say methods=[afl]")
    if study is None or not study.get("epsilons"):
        raise BadInput(f"study={study} names no epsilons: say experiment=leakage study.epsilons=[1,8]")
    for epsilon in study.epsilons:
        check_budget(epsilon, study.delta)
    least = {"min_samples": 1, "targets": 4, "candidates": 8, "halves": 1, "shadows": 2, "tries": 1}
    for name, number in least.items():
        checks.integer(f"study.{name}", study[name], number)
    if cfg.ridge == "gcv" or not float(cfg.ridge) > 0:
        raise BadInput(f"ridge={cfg.ridge}: heads of random halves take a number > 0, say ridge=1.0")
