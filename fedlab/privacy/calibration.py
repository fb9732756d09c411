"""How much noise T sampled Gaussian steps take for a promise, and a certificate of the steps that were taken.

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

from fedlab.errors import BadInput
from fedlab.privacy.composition import Composition
from fedlab.privacy.gaussian import check_promise, multiplier
from fedlab.privacy.per_sample import part

TOLERANCE = 0.01
"""Share of epsilon, and most of it, that the search may leave unspent."""


@dataclass(frozen=True)
class Certificate:
    """What sampled Gaussian steps have told about one sample (or client), added or removed.

    Attributes
    ----------
    epsilon, delta
        Of all steps together; epsilon is infinite where there was no noise.
    noise_multiplier
        m: standard deviations per unit of sensitivity.
    sampling_probability
        q.
    steps
        T, as they were really taken.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    sampling_probability: float
    steps: int


def certify(noise_multiplier: float, sampling_probability: float, steps: int, delta: float) -> Certificate:
    """Return what these steps cost at delta.

    Parameters
    ----------
    noise_multiplier
        m >= 0; 0 is no noise and costs infinity.
    sampling_probability
        q in (0, 1].
    steps
        T >= 0; none cost nothing.
    delta
        In (0, 1).

    Raises
    ------
    BadInput
        One of them is out of range, or dp_accounting is needed and not installed.
    """
    check_promise(1.0, delta)
    q = check_sampling(sampling_probability)
    if steps < 0:
        raise BadInput(f"steps={steps} must be at least 0")
    if not (math.isfinite(noise_multiplier) and noise_multiplier >= 0):
        raise BadInput(f"noise_multiplier={noise_multiplier} must be a finite number >= 0")
    if not steps:
        epsilon = 0.0
    elif not noise_multiplier:
        epsilon = math.inf
    elif q == 1:
        epsilon = Composition(precision=steps / noise_multiplier**2).epsilon(delta)
    else:
        epsilon = Composition(sampled=(((float(noise_multiplier), q), steps),)).epsilon(delta)
    return Certificate(epsilon, delta, float(noise_multiplier), q, steps)


@lru_cache(maxsize=256)  # every client of a run asks the same
def calibrate(epsilon: float, delta: float, sampling_probability: float, steps: int) -> float:
    """Return a noise multiplier with which all steps together keep (epsilon, delta); at most 1 % is left unspent.

    Parameters
    ----------
    epsilon
        > 0.
    delta
        In (0, 1).
    sampling_probability
        q in (0, 1].
    steps
        T >= 1.

    Raises
    ------
    BadInput
        One of them is out of range, or Opacus is needed and not installed.
    """
    check_promise(epsilon, delta)
    q = check_sampling(sampling_probability)
    if steps < 1:
        raise BadInput(f"steps={steps} must be at least 1: without a step there is nothing to hide")
    if q == 1:
        return multiplier(epsilon, delta) * math.sqrt(steps)
    m = _by_prv(epsilon, delta, q, steps)
    while certify(m, q, steps, delta).epsilon > epsilon:
        m *= 1.002
    return m


def check_sampling(probability: float) -> float:
    """Return a sampling probability that is one."""
    if not 0 < probability <= 1:
        raise BadInput(
            f"sampling_probability={probability} must lie in (0, 1]: a public number, not batch / n, for n is private"
        )
    return float(probability)


def _by_prv(epsilon: float, delta: float, q: float, steps: int) -> float:
    error = min(TOLERANCE, TOLERANCE * epsilon)
    try:
        with warnings.catch_warnings():
            # It says that its Renyi orders are few, which it only uses to choose the size of its grid.
            warnings.simplefilter("ignore")
            return part("accountants.utils", "get_noise_multiplier")(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=q,
                steps=steps,
                accountant="prv",
                epsilon_tolerance=error,
                eps_error=error,
            )
    except (ValueError, RuntimeError, MemoryError) as why:
        raise BadInput(
            f"epsilon={epsilon}, delta={delta}, sampling_probability={q}, steps={steps}: no noise multiplier was found "
            f"({why}); give a promise of common size, such as epsilon=1 delta=1e-5, or fewer steps"
        ) from why
