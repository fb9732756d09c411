"""What an observer sees of the same samples: as a client sends them, masked, summed, and with noise.

    plain          what AFL's client sends                    masked           one mask, uniform modulo 2^64
    secure sum     the sum over all clients                   local noise      the client's own release
    central noise  a release of the sum over all clients

Rows are clipped to the norm that the noise is calibrated for, and all views are of these. n samples, d features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from fedlab.analytic import Analytic, Identity
from fedlab.audit.leakage import Public, masked
from fedlab.errors import BadInput
from fedlab.privacy.mechanisms.gaussian import multiplier
from fedlab.privacy.mechanisms.sensitivity import joint_sensitivity
from fedlab.privacy.ridge.clip_and_noise import clip_rows, symmetric_gaussian
from fedlab.randomness import rng_for
from fedlab.stats import FixedPoint, GramStats, NoisyGram, one_hot, unpack
from fedlab.world import World

View = tuple[str, float | None]
"""How an upload is seen, and at which epsilon."""
SUMMED = ("secure sum", "central noise")
"""Views of all clients together."""


@dataclass(frozen=True, eq=False)
class Scene:
    """The samples, who holds them, what is public, and how they are sent.

    Attributes:
        x, labels: Clipped features, (n, d), and (n,).
        parts: Rows of the clients that have at least `study.min_samples`.
        clients: How many there are, whatever they have.
        public: What the test split tells of the population.
        sender: The client, sending sums of these features.
        study, ridge, seed: Of the config.
    """

    x: Tensor
    labels: Tensor
    parts: list[Tensor]
    clients: int
    public: Public
    sender: Analytic
    study: Any
    ridge: float
    seed: int

    @classmethod
    def of(cls, cfg: DictConfig, learner: Analytic, everyone: World) -> Scene:
        """Return the scene of a config.

        Raises:
            BadInput: There are fewer samples, or clients, than the study asks for.
        """
        study, c = cfg.study, everyone.num_classes
        x, known = (clip_rows(learner.features(part), study.clip) for part in (everyone.train, everyone.test))
        public = Public.of(known.cpu(), everyone.test_labels.cpu(), c)
        # Rows are clipped and expanded already; a client sends sums of them as they are.
        sender = replace(learner, expansion=Identity(), mode="float64", limit=study.clip, min_samples=0)
        parts = [torch.from_numpy(part) for part in everyone.federation.parts if len(part) >= study.min_samples]
        most = min(study.candidates, len(x) // 2, len(x) - study.targets)
        if len(parts) < 2 or most < study.candidates:
            raise BadInput(
                f"{len(x)} samples, {len(parts)} clients with at least {study.min_samples} of them: too few for "
                f"study.targets={study.targets} and study.candidates={study.candidates}; lower these, or clients"
            )
        labels = everyone.train_labels.cpu()
        clients = everyone.federation.num_clients
        return cls(x.cpu(), labels, parts, clients, public, sender, study, float(cfg.ridge), cfg.seed)

    def rng(self, purpose: str) -> np.random.Generator:
        """Return random numbers for one purpose."""
        return rng_for(self.seed, f"leakage: {purpose}")

    def upload(self, rows: Tensor, min_samples: int = 0) -> NoisyGram:
        """Return what the server unpacks when a client with these rows answers."""
        client = replace(self.sender, min_samples=min_samples)
        arrays, _ = client.train({}, {}, self.x[rows], self.labels[rows], self.seed)
        statistics = unpack(arrays)
        assert isinstance(statistics, GramStats)
        return NoisyGram.without_counts(statistics)

    def total(self, rows: Any) -> NoisyGram:
        """Return the sum over rows."""
        return NoisyGram.without_counts(self.sender.observe(self.x[rows], self.labels[rows]))

    def masked(self, rows: Tensor, rng: np.random.Generator) -> NoisyGram:
        """Return what the server sees of a client's rows before others are added."""
        fixed = FixedPoint(self.sender.limit, self.sender.bits)
        y = one_hot(self.labels[rows], self.sender.num_classes)
        return masked(GramStats.from_batch(self.x[rows], y, fixed), rng.bytes(32))

    def noisy(self, sums: NoisyGram, epsilon: float, rng: np.random.Generator, releases: int = 1) -> NoisyGram:
        """Return one release, or the sum of several of which each keeps epsilon."""
        s = multiplier(epsilon, self.study.delta) * joint_sensitivity(self.study.clip) * math.sqrt(releases)
        return symmetric_gaussian(sums, s, s, rng)

    def views(self, rest: Tensor, rng: np.random.Generator) -> dict[View, Callable[[Tensor], NoisyGram]]:
        """Return what is seen of a client with some rows, where the rows of all others are `rest`."""
        others = self.total(rest)
        views: dict[View, Callable[[Tensor], NoisyGram]] = {
            ("plain", None): self.upload,
            ("masked", None): lambda rows: self.masked(rows, rng),
            ("secure sum", None): lambda rows: others + self.upload(rows),
        }
        for e in self.study.epsilons:
            views["local noise", e] = lambda rows, e=e: self.noisy(self.upload(rows), e, rng)
            views["central noise", e] = lambda rows, e=e: self.noisy(others + self.upload(rows), e, rng)
        return views


def paired(targets: Tensor, labels: Tensor) -> tuple[Tensor, list[int]]:
    """Return the targets that share a class with another, and for each the position of one that does."""
    classes = labels[targets].tolist()
    alike = {y: [i for i, label in enumerate(classes) if label == y] for y in set(classes)}
    kept = [i for i, y in enumerate(classes) if len(alike[y]) > 1]
    following = {i: group[(k + 1) % len(group)] for group in alike.values() for k, i in enumerate(group)}
    return targets[kept], [kept.index(following[i]) for i in kept]


def alike(part: Tensor, labels: Tensor, most: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return some of a client's rows, and as many of others with the same labels: a class is no membership."""
    elsewhere = np.setdiff1d(np.arange(len(labels)), part.numpy())
    others = {y: list(rng.permutation(elsewhere[labels[elsewhere] == y])) for y in labels[part].unique().tolist()}
    drawn = part[torch.from_numpy(rng.permutation(len(part))[:most])].tolist()
    pairs = [(i, int(others[y].pop())) for i in drawn if others[y := int(labels[i])]]
    inside, outside = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    return inside, outside
