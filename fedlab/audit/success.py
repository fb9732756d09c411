"""How well an attack tells one thing from another, and how sure that is.

    AUC = P(score inside > score outside) + P(equal)/2        advantage = TPR - FPR        TPR where FPR is 1 %

AUC averages over all thresholds; TPR at a small FPR is what an attacker knows of those it is sure about (Carlini et
al., 2022, https://arxiv.org/abs/2112.03570). The threshold of the advantage is chosen on one half of the scores and
judged on the other, for the best of many thresholds on the same scores would be above zero by chance. Intervals are
percentiles of a bootstrap. (epsilon, delta) caps the advantage of whoever knows everything else:

    TPR - FPR <= (e^eps - 1 + 2 delta) / (e^eps + 1)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedlab.errors import BadInput

CONFIDENCE = 0.95
RESAMPLES = 300


@dataclass(frozen=True)
class Estimate:
    """A number and its interval at 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Success:
    """How well members were told from others.

    Attributes:
        auc: Area under the curve; 0.5 is chance.
        advantage: Difference TPR - FPR; 0 is chance.
        sure: Rate TPR where FPR is 1 %; 0.01 is chance.
    """

    auc: Estimate
    advantage: Estimate
    sure: Estimate


def distinguish(inside: np.ndarray, outside: np.ndarray, rng: np.random.Generator) -> Success:
    """Judge scores that should be higher inside.

    Args:
        inside, outside: Scores of those that are members, (n,), and of those that are not, (m,).
        rng: Random numbers of the resampling.

    Raises:
        BadInput: Fewer than two scores of a kind, or one that is NaN.
    """
    for name, scores in (("members", inside), ("others", outside)):
        if len(scores) < 2 or np.isnan(scores).any():
            raise BadInput(
                f"{len(scores)} scores of {name}, {int(np.isnan(scores).sum())} of them NaN: give at least two"
            )
    # The order in which scores were made says nothing about where they are judged.
    inside, outside = rng.permutation(inside), rng.permutation(outside)
    threshold = _best_threshold(inside[::2], outside[::2])

    def advantage(members: np.ndarray, others: np.ndarray) -> float:
        return float((members >= threshold).mean() - (others >= threshold).mean())

    def bootstrap(members: np.ndarray, others: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(rng.choice(members, len(members)), rng.choice(others, len(others))) for _ in range(RESAMPLES)]

    whole, half = bootstrap(inside, outside), bootstrap(inside[1::2], outside[1::2])
    return Success(
        _interval(auc(inside, outside), [auc(*draw) for draw in whole]),
        _interval(advantage(inside[1::2], outside[1::2]), [advantage(*draw) for draw in half]),
        _interval(sure_rate(inside, outside), [sure_rate(*draw) for draw in whole]),
    )


def auc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the probability that a member's score is the higher one; ties count half."""
    ordered = np.sort(outside)
    below, not_above = (np.searchsorted(ordered, inside, side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(outside)))


def sure_rate(inside: np.ndarray, outside: np.ndarray, false: float = 0.01) -> float:
    """Return the share of members above the score that at most this share of the others pass."""
    passing = math.floor(false * len(outside))
    return float((inside > np.sort(outside)[::-1][passing]).mean())


def gain(success: np.ndarray, guessed: np.ndarray, rng: np.random.Generator) -> Estimate:
    """Return what was leaked, from the success at each target and what a guess reaches there, both (n,).

    Targets are resampled with both: they differ more from each other than success from a guess.
    """
    draws = rng.integers(len(success), size=(RESAMPLES, len(success)))
    means = zip(success[draws].mean(1), guessed[draws].mean(1), strict=True)
    return _interval(leaked(float(success.mean()), float(guessed.mean())), [leaked(*pair) for pair in means])


def advantage_cap(epsilon: float, delta: float) -> float:
    """Return the largest advantage that (epsilon, delta) allows."""
    return (math.expm1(epsilon) + 2 * delta) / (math.exp(epsilon) + 1)


def leaked(success: float, chance: float) -> float:
    """Return what success adds to chance, as a share of what could be added: 0 is nothing, 1 everything."""
    return (success - chance) / (1 - chance) if chance < 1 else 0.0


def _best_threshold(inside: np.ndarray, outside: np.ndarray) -> float:
    scores = np.concatenate([inside, outside])
    order = np.argsort(-scores, kind="stable")
    step = np.concatenate([np.full(len(inside), 1 / len(inside)), np.full(len(outside), -1 / len(outside))])
    return float(scores[order][np.cumsum(step[order]).argmax()])


def _interval(value: float, resampled: list[float]) -> Estimate:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Estimate(value, float(low), float(high))
