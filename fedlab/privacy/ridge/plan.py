"""What a guarantee will cost: the noise it takes, the signal it leaves, and a forecast on synthetic classes.

    noise on the sum    s sqrt(2 d), the spectral norm of the symmetric Gaussian on G; the ridge too
    signal              n B^2 / d, G's eigenvalue in an average direction, for its trace is at most n B^2
    their ratio         n B^2 / (s sqrt(2) d^1.5): where it is far below 1, only directions with much more than
                        the average signal are learned

The forecast noises and solves the sums of Gaussian classes with these n, d and c: rows of norm B, variance 1/i in the
i-th direction, and means whose distance there falls as i^(-3/4) of its deviation. Of the powers that were tried this
one comes closest to what sentence embeddings lose (n = 15000, d = 384, c = 2: 1.1 points at epsilon 1, 0.3 at 8). It
says how noise compares with samples, not what other data will give. Above some size fewer rows are drawn and their
sums scaled up, which leaves their own sampling error in.

n samples, d features, c classes, s the standard deviation on G's diagonal, B the largest norm of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.special import ndtri

from fedlab import checks
from fedlab.privacy.ridge.clip_and_noise import symmetric_gaussian
from fedlab.privacy.ridge.guarantee import Guarantee
from fedlab.stats import NoisyGram

DRAWS = 3
"""Draws of noise whose accuracies are averaged."""
TESTED = 2000
"""Rows that a forecast is judged on."""
MOST_ROWS, MOST_WORK = 20_000, 4e9
"""Rows that are drawn at most, and multiplications over all of them."""
WIDEST = 1024
"""Features up to which there is a forecast: its eigenvalues take d^3."""
RIDGES = np.geomspace(1e-4, 1.0, 5)
"""Ridges without noise, as shares of an average eigenvalue; the best is taken, to be fair to it."""
DECAY = 0.75
"""Power by which the distance of classes falls with the direction, in deviations."""
CONFUSED = 0.1
"""How often the best rule takes a class for another, about."""


@dataclass(frozen=True)
class Plan:
    """A guarantee, and the federation it is for.

    Args:
        guarantee: Guarantee of one release.
        n, d, c, clients: Numbers of samples in all, features, classes, and clients that hold the samples.
        of_features: Number of features before a projection to d; None for d.

    Raises:
        BadInput: A size is out of range.
    """

    guarantee: Guarantee
    n: int
    d: int
    c: int
    clients: int
    of_features: int | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("n", self.n, 1), ("d", self.d, 1), ("c", self.c, 2)):
            checks.integer(name, value, least)
        checks.integer("clients", self.clients, 1, self.n, remedy=f"each holds a sample of the n={self.n}")

    @property
    def own_deviation(self) -> float:
        """Standard deviation of what each client adds to its own sums; 0 where the server adds it."""
        of, s = self.guarantee, self.guarantee.deviations[0]
        if of.trust == "central":
            return 0.0
        return s if of.trust == "local" else s / math.sqrt(of.honest(self.clients))

    @property
    def deviation(self) -> float:
        """s: standard deviation of the noise on the sum, on G's diagonal and on C, if every client answers."""
        own = self.own_deviation
        return own * math.sqrt(self.clients) if own else self.guarantee.deviations[0]

    @property
    def ridge(self) -> float:
        """The noise's largest eigenvalue, about s sqrt(2 d), which is the ridge."""
        return self.deviation * math.sqrt(2 * self.d)

    @property
    def row_norm(self) -> float:
        """B of the rows; per client the clip is the whole statistics' and rows are taken to have norm 1."""
        return self.guarantee.clip if self.guarantee.unit == "sample" else 1.0

    @property
    def ratio(self) -> float:
        """Signal over noise, for an average direction."""
        return self.n * self._kept * self.row_norm**2 / self.d / self.ridge

    @property
    def _kept(self) -> float:
        """Share of the sums that clipping leaves at least; 1 per sample, for every row is at the clip."""
        if self.guarantee.unit == "sample":
            return 1.0
        # Of n/k rows of norm 1, the norm of (G, C) is at most sqrt(2) n/k.
        return min(1.0, self.guarantee.clip / (math.sqrt(2) * self.n / self.clients))

    def alternatives(self) -> Iterator[tuple[str, Plan]]:
        """Yield what could be changed, and the plan with that one change."""
        of = self.guarantee
        yield "four times the samples", replace(self, n=4 * self.n)
        if (fewer := max(self.d // 4, self.c)) < self.d:
            words = f"d={fewer}, along directions from public data"
            yield words, replace(self, d=fewer, of_features=self.of_features or self.d)
        for trust in ("distributed", "central") if of.trust == "local" else ():
            yield f"trust={trust}", replace(self, guarantee=replace(of, trust=trust))
        if of.trust == "distributed" and of.dropout + of.colluding:
            yield "dropout=0 colluding=0", replace(self, guarantee=replace(of, dropout=0.0, colluding=0.0))
        yield f"epsilon={2 * of.epsilon:g}", replace(self, guarantee=replace(of, epsilon=2 * of.epsilon))


@dataclass(frozen=True)
class Forecast:
    """Accuracies on synthetic classes.

    Attributes:
        without: Accuracy with no noise, at the best of `RIDGES`.
        accuracy, spread: Mean and standard deviation over the draws of noise.
        error: Standard error of the loss, from the test rows: what is below it is not known to be there.
        rows: Number of rows that were drawn for the n.
    """

    without: float
    accuracy: float
    spread: float
    error: float
    rows: int


def forecast(plan: Plan, seed: int = 0) -> Forecast | None:
    """Return what becomes of synthetic classes under a plan; None where d is too large to try."""
    if plan.d > WIDEST:
        return None
    rng = np.random.default_rng(seed)
    before = plan.of_features or plan.d
    rows = int(min(plan.n, MOST_ROWS, max(4 * plan.d, MOST_WORK // plan.d**2)))
    deviations = np.arange(1, before + 1) ** -0.5
    # Two means at Mahalanobis distance D are confused by the best rule with probability Phi(-D/2).
    distance = -2 * float(ndtri(CONFUSED / (plan.c - 1)))
    apart = np.arange(1, before + 1) ** -DECAY
    apart *= distance / math.sqrt(2) / np.linalg.norm(apart)
    means = rng.standard_normal((plan.c, before)) * deviations * apart
    labels = rng.integers(plan.c, size=rows + TESTED)
    x = means[labels] + rng.standard_normal((rows + TESTED, before)) * deviations
    x = x[:, : plan.d]
    x *= plan.row_norm / np.linalg.norm(x, axis=1, keepdims=True)
    train, test, y = x[:rows], torch.from_numpy(x[rows:]), np.eye(plan.c)[labels[:rows]]
    truth = torch.from_numpy(labels[rows:])
    size = plan.n / rows * plan._kept
    sums = NoisyGram(torch.from_numpy(size * (train.T @ train)), torch.from_numpy(size * (train.T @ y)))

    def accuracy(statistics: NoisyGram, ridge: float | str) -> float:
        return float(((test @ statistics.solve(ridge)).argmax(1) == truth).double().mean())

    average = float(sums.gram.trace()) / plan.d
    without = max(accuracy(sums, float(share) * average) for share in RIDGES)
    noisy = [symmetric_gaussian(sums, plan.deviation, plan.deviation, rng) for _ in range(DRAWS)]
    accuracies = [accuracy(one, "noise") for one in noisy]
    error = math.sqrt(max(accuracies[0] * (1 - accuracies[0]), 1 / TESTED) / TESTED)
    return Forecast(without, float(np.mean(accuracies)), float(np.std(accuracies)), error, rows)
