"""How much noise T sampled Gaussian steps take for a budget, and a certificate of the steps that were taken.

    step:   sum_{i in S} clip(g_i, C) + N(0, (m C)^2 I),       S holds each sample with probability q, by itself

The noise multiplier m is found by PRV accounting (Opacus) and certified by privacy loss distributions (Google's
dp_accounting, through `composition`): two programs that share no code have to agree, and m rises until the
certificate keeps what was asked. Where q = 1 both are the closed form of `gaussian`. A central limit (GDP) is no
bound and appears nowhere; Renyi accounting is one, for some 7 % more noise.

Gopi, Lee and Wutschitz, Numerical Composition of Differential Privacy, NeurIPS 2021,
https://arxiv.org/abs/2106.02848; Abadi et al., Deep Learning with Differential Privacy, CCS 2016,
https://arxiv.org/abs/1607.00133.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.privacy.accounting.budget import PrivacyBudget
from fedlab.privacy.accounting.composition import Composition, together
from fedlab.privacy.accounting.release import Release
from fedlab.privacy.libraries import part
from fedlab.privacy.mechanisms.gaussian import check_budget, multiplier

FEWEST = 1e-3
"""Sampling probability down to which PRV accounts: its grid grows as it falls."""
TOLERANCE = 0.01
"""Share of epsilon that the search may leave unspent."""


@dataclass(frozen=True)
class PrivacyCertificate:
    """What sampled Gaussian steps cost one sample (or client), added or removed.

    Attributes:
        epsilon, delta: Cost of all steps together; epsilon is infinite where there was no noise.
        noise_multiplier: Noise multiplier m: standard deviations per unit of sensitivity.
        sampling_probability: Probability q of each sample to be in a step.
        steps: Number of steps T, as they were really taken.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    sampling_probability: float
    steps: int


def certify(noise_multiplier: float, sampling_probability: float, steps: int, delta: float) -> PrivacyCertificate:
    """Return what these steps cost at delta.

    Args:
        noise_multiplier: Noise multiplier m >= 0; 0 is no noise and costs infinity.
        sampling_probability: Probability q in (0, 1].
        steps: Number of steps T >= 0; none cost nothing.
        delta: Delta in (0, 1).

    Raises:
        BadInput: One of them is out of range.
    """
    check_budget(1.0, delta)
    q = check_sampling(sampling_probability)
    checks.integer("steps", steps, least=0)
    checks.number("noise_multiplier", noise_multiplier, least=0)
    if not steps:
        epsilon = 0.0
    elif not noise_multiplier:
        epsilon = math.inf
    else:
        taken = Release("steps", "steps", "subsampled_gaussian", float(noise_multiplier), q, steps)
        epsilon = Composition.of(taken).epsilon(delta)
    return PrivacyCertificate(epsilon, delta, float(noise_multiplier), q, steps)


@lru_cache(maxsize=256)  # every client of a run asks the same
def calibrate(epsilon: float, delta: float, sampling_probability: float, steps: int) -> float:
    """Return a noise multiplier with which all steps together keep (epsilon, delta); at most 1 % is left unspent.

    Args:
        epsilon, delta: Budget: epsilon > 0, delta in (0, 1).
        sampling_probability: Probability q in (0, 1].
        steps: Number of steps T >= 1.

    Raises:
        BadInput: One of them is out of range, or no multiplier was found.
    """
    check_budget(epsilon, delta)
    q = check_sampling(sampling_probability)
    checks.integer("steps", steps, least=1, remedy="without a step there is nothing to hide")
    if q == 1:  # a last bit more, so that what is added up step by step is not a last bit too much
        return multiplier(epsilon, delta) * math.sqrt(steps) * (1 + 1e-9)
    # Below some q the grid of PRV grows past all memory; there the cheap bound is certified, and a little more noise.
    m = _by_prv(epsilon, delta, q, steps) if q >= FEWEST else _by_renyi(epsilon, delta, q, steps)
    while certify(m, q, steps, delta).epsilon > epsilon:
        m *= 1.002
    return m


def votes_multiplier(epsilon: float, delta: float, rounds: int, beside: tuple[Release, ...] = ()) -> float:
    """Return the noise multiplier of votes that, with all rounds and what is released beside them, keep a budget.

    Args:
        epsilon, delta: Budget of all of it.
        rounds: Number of histograms, at least 1.
        beside: Releases about the same texts beside the votes: a generator's steps.

    Raises:
        BadInput: There is no round, or what is beside spends the whole budget.
    """
    checks.integer("rounds", rounds, least=1)
    m = multiplier(epsilon, delta) * rounds**0.5
    if not beside:
        return m
    spent = together(beside).epsilon(delta)
    if spent >= epsilon:
        raise BadInput(
            f"epsilon={epsilon}: the generator alone spends {spent:.3g}, which leaves nothing for votes; give it less"
        )

    def kept(candidate: float) -> bool:
        cast = Release("votes", "votes", "gaussian", noise_multiplier=candidate, steps=rounds)
        return together((*beside, cast)).epsilon(delta) <= epsilon

    low, high = m, 2 * m
    while not kept(high):
        low, high = high, 2 * high
    while high > low * 1.005:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if kept(middle) else (middle, high)
    return high


def check_noise(budget: PrivacyBudget, given: float | None) -> None:
    """Refuse a budget of no epsilon where no noise multiplier was given either."""
    if budget.epsilon is None and given is None:
        raise BadInput("give an epsilon, or a noise_multiplier: without either there is no noise to add")


def multiplier_for(budget: PrivacyBudget, given: float | None, sampling_probability: float, steps: int) -> float:
    """Return the noise multiplier that was given, or the one that keeps the budget; raises as `calibrate`."""
    if given is not None:
        return given
    assert budget.epsilon is not None  # see `check_noise`
    return calibrate(budget.epsilon, budget.delta, sampling_probability, steps)


def check_sampling(probability: float) -> float:
    """Return a sampling probability that is one."""
    remedy = "a public number, not batch / n, for n is private"
    return float(checks.number("sampling_probability", probability, above=0, most=1, remedy=remedy))


def _by_prv(epsilon: float, delta: float, q: float, steps: int) -> float:
    accountant = part("opacus.accountants", "PRVAccountant")()
    error = TOLERANCE / 4 * epsilon  # of its grid; it returns the upper end
    wanted = math.log(epsilon * (1 - TOLERANCE / 2))
    m = _by_renyi(epsilon, delta, q, steps)
    slope, last = -1.5, None  # of log epsilon over log m, which is nearly a line
    for _ in range(20):
        accountant.history = [(m, q, steps)]
        try:
            with warnings.catch_warnings():
                # It says that its Renyi orders are few, which it only uses to choose the size of its grid.
                warnings.simplefilter("ignore")
                spent = float(accountant.get_epsilon(delta, eps_error=error))
        except (ValueError, RuntimeError, MemoryError) as why:
            raise _no_multiplier(epsilon, delta, q, steps, str(why)) from why
        if epsilon * (1 - TOLERANCE) <= spent <= epsilon:
            return m
        here = math.log(m), math.log(spent)
        if last is not None and here[0] != last[0]:
            slope = min(-0.1, (here[1] - last[1]) / (here[0] - last[0]))
        last = here
        m = math.exp(here[0] + (wanted - here[1]) / slope)
    raise _no_multiplier(epsilon, delta, q, steps, "the search did not settle")


def _by_renyi(epsilon: float, delta: float, q: float, steps: int) -> float:
    """Return a multiplier that is enough, by the cheap bound: where the search begins."""
    low, high = math.log(1e-2), math.log(1e6)
    while high - low > 1e-3:
        middle = (low + high) / 2
        enough = Composition(sampled=(((math.exp(middle), q), steps),)).bound(delta) <= epsilon
        low, high = (low, middle) if enough else (middle, high)
    return math.exp(high)


def _no_multiplier(epsilon: float, delta: float, q: float, steps: int, why: str) -> BadInput:
    return BadInput(
        f"epsilon={epsilon}, delta={delta}, sampling_probability={q}, steps={steps}: no noise multiplier was found "
        f"({why}); give a budget of common size, such as epsilon=1 delta=1e-5, or fewer steps"
    )
