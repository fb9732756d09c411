"""An epsilon that a mechanism cannot be below, from many of its own releases.

    P(M(D') in S) <= e^eps P(M(D) in S) + delta        so for every event S:  eps >= ln((TPR - delta) / FPR)

D' is D with one sample more. An attacker gives each release a score, and S is a score on one side of a threshold.
The threshold is chosen on one half of the releases; on the other half Clopper and Pearson's intervals hold TPR from
below and FPR from above, together with the stated confidence. So a bound above a stated epsilon disproves it,
and errs with probability 1 - confidence at most; a bound below it proves nothing.

Where the noise is known to be Gaussian, one threshold fixes the whole trade-off curve,

    mu >= Phi^-1(TPR) - Phi^-1(FPR)        eps = the exact epsilon of one Gaussian release of multiplier 1/mu at delta

which is far tighter where delta is small: events of probability delta need not be seen.

Jagielski et al., NeurIPS 2020, https://arxiv.org/abs/2006.07709; Nasr et al., USENIX Security 2023,
https://arxiv.org/abs/2302.07956. d features, c classes, n and m releases without and with the sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from scipy.special import betaincinv, ndtri
from torch import Tensor

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.privacy.mechanisms.gaussian import check_budget, epsilon_of
from fedlab.privacy.ridge.guarantee import Guarantee
from fedlab.stats import NoisyGram

THRESHOLDS = 200
"""Thresholds that are tried on the first half."""
LEAST = 100
"""Releases of each kind below which nothing can be said."""

Mechanism = Callable[[NoisyGram], NoisyGram]
"""Clipped statistics to what is released, with fresh noise at each call."""


@dataclass(frozen=True)
class Audit:
    """A lower bound on epsilon and the event that gave it.

    Attributes:
        epsilon: Bound on epsilon from below, with the stated confidence; 0 where nothing was found.
        delta: Delta at which it holds.
        threshold: Threshold: the event is a score of at least this, or below it where `reverse`.
        reverse: Whether the event tells that the sample is missing.
        likely, unlikely: Bound from below on the probability of the event on the side where it is likelier, from
            above on the other.
        releases: Number of releases with the sample and without, those that chose the threshold not counted.
        confidence: Confidence of the bound.
    """

    epsilon: float
    delta: float
    threshold: float
    reverse: bool
    likely: float
    unlikely: float
    releases: int
    confidence: float

    def violates(self, epsilon: float) -> bool:
        """Whether a stated epsilon is disproved."""
        return self.epsilon > epsilon


def audit(without: np.ndarray, including: np.ndarray, delta: float, confidence: float = 0.95) -> Audit:
    """Bound the epsilon of any mechanism from below.

    Args:
        without, including: Scores of independent releases without and with the sample, (n,) and (m,), in the order
            they were drawn.
        delta: Delta in (0, 1).
        confidence: Probability, at least, with which the bound holds.

    Raises:
        BadInput: Too few scores, a score that is NaN, or a delta or confidence outside (0, 1).
    """

    def gain(likely: np.ndarray, unlikely: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(likely - delta, 0.0) + np.finfo(float).tiny) - np.log(unlikely)

    return _audit(without, including, delta, confidence, gain, float)


def audit_gaussian(without: np.ndarray, including: np.ndarray, delta: float, confidence: float = 0.95) -> Audit:
    """Bound the epsilon of a mechanism whose noise is known to be Gaussian; parameters as for `audit`.

    Of another mechanism this bound says nothing.
    """

    def gain(likely: np.ndarray, unlikely: np.ndarray) -> np.ndarray:
        return ndtri(likely) - ndtri(unlikely)

    return _audit(without, including, delta, confidence, gain, lambda mu: epsilon_of(1 / mu, delta))


def attack(
    guarantee: Guarantee, *, releases: int = 100_000, confidence: float = 0.95, seed: int = 0
) -> tuple[Audit, Audit]:
    """Bound the epsilon of a guarantee's noise from below: of any mechanism, and of one whose noise is Gaussian.

    Args:
        guarantee: Guarantee whose noise is attacked, by a sample of the largest norm that clipping lets pass.
        releases: Number of releases of each kind, at least.
        confidence: Probability, at least, with which each bound holds.
        seed: Seed of the noise.

    Raises:
        BadInput: The guarantee is not about adding or removing one sample under Gaussian noise, or a number is out of
            range.
    """
    of = (guarantee.unit, guarantee.relation)
    if of != ("sample", "add_remove") or guarantee.trust == "distributed":
        raise BadInput(
            f"unit={of[0]} relation={of[1]} trust={guarantee.trust}: this attack adds one sample to sums "
            "under Gaussian noise; leave unit and relation out, and take trust=central or trust=local"
        )
    checks.integer("releases", releases, least=2 * LEAST, remedy="100000 is a good number")
    rng = np.random.default_rng(checks.integer("seed", seed, least=0))
    x = torch.full((2,), guarantee.clip / 2**0.5, dtype=torch.float64)
    y = torch.tensor([1.0, 0.0], dtype=torch.float64)
    scores = gram_scores(lambda sums: guarantee.noised(sums, rng), x, y, releases, blocks=64)
    return (audit(*scores, guarantee.delta, confidence), audit_gaussian(*scores, guarantee.delta, confidence))


def gram_scores(
    mechanism: Mechanism, x: Float64[Tensor, " d"], y: Float64[Tensor, " c"], releases: int, blocks: int = 50
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of a mechanism's releases of (G, C) without a sample and with it.

    The score is <G, xx'> + <C, xy'>, the likelihood ratio of symmetric Gaussian noise. One call stands for many
    releases: block-diagonal statistics of `blocks` samples on coordinates of their own hold as many independent
    releases of d features, as long as the noise is independent from entry to entry.

    Args:
        mechanism: Mechanism; it is called with statistics of blocks * d features.
        x, y: Sample, of the largest norm that clipping lets pass, for there the mechanism has least slack.
        releases: Number of releases of each kind, at least.
        blocks: Number of releases in one call.
    """
    rows = torch.block_diag(*[x[None]] * blocks)
    present = NoisyGram(rows.T @ rows, rows.T @ y.expand(blocks, len(y)))
    absent = NoisyGram(torch.zeros_like(present.gram), torch.zeros_like(present.cross))

    def scores(statistics: NoisyGram) -> np.ndarray:
        released = mechanism(statistics)
        return ((rows @ released.gram * rows).sum(1) + (rows @ released.cross) @ y).numpy()

    calls = -(-releases // blocks)
    return (
        np.concatenate([scores(absent) for _ in range(calls)]),
        np.concatenate([scores(present) for _ in range(calls)]),
    )


def clopper_pearson(hits: np.ndarray, trials: int, error: float) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds on probabilities from below and above; each errs with probability `error` at most."""
    some, lacking = np.maximum(hits, 1), np.maximum(trials - hits, 1)  # at 0 and at n not used
    low = np.where(hits > 0, betaincinv(some, trials - some + 1, error), 0.0)
    high = np.where(hits < trials, betaincinv(trials - lacking + 1, lacking, 1 - error), 1.0)
    return low, high


def _audit(
    without: np.ndarray,
    including: np.ndarray,
    delta: float,
    confidence: float,
    gain: Callable[[np.ndarray, np.ndarray], np.ndarray],
    epsilon: Callable[[float], float],
) -> Audit:
    """Choose the event of the largest gain, a rising function of epsilon, and judge it on other releases."""
    check_budget(1.0, delta)
    checks.number("confidence", confidence, above=0, below=1, remedy="0.95 errs once in twenty audits")
    for name, scores in (("without", without), ("with", including)):
        if scores.ndim != 1 or len(scores) < LEAST or np.isnan(scores).any():
            raise BadInput(
                f"scores {name} the sample have shape {scores.shape}, {int(np.isnan(scores).sum())} of them NaN: "
                f"give a number for each of at least {LEAST} releases"
            )
    error = (1 - confidence) / 2  # two rates are bounded, and either may err
    halves = [np.array_split(scores, 2) for scores in (without, including)]

    def rates(half: int, thresholds: np.ndarray, reverse: bool) -> tuple[np.ndarray, np.ndarray]:
        bounds = []
        for scores in halves[::-1] if reverse else halves:
            n = len(scores[half])
            below = np.searchsorted(np.sort(scores[half]), thresholds, side="left")
            bounds.append(clopper_pearson(below if reverse else n - below, n, error))
        return bounds[1][0], bounds[0][1]

    thresholds = np.quantile(np.concatenate([halves[0][0], halves[1][0]]), np.linspace(0, 1, THRESHOLDS))
    gains = np.stack([gain(*rates(0, thresholds, reverse)) for reverse in (False, True)])
    reverse, best = divmod(int(gains.argmax()), THRESHOLDS)
    likely, unlikely = rates(1, thresholds[best : best + 1], bool(reverse))
    judged = float(gain(likely, unlikely)[0])
    return Audit(
        epsilon(judged) if judged > 0 else 0.0,
        delta,
        float(thresholds[best]),
        bool(reverse),
        float(likely[0]),
        float(unlikely[0]),
        sum(len(half[1]) for half in halves),
        confidence,
    )
