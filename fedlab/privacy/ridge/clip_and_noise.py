"""Clip and noise for ridge statistics: one release, closed form.

    rows      x <- x min(1, B/|x|), and for integers towards zero, so that rounding never passes B
    clients   (G, C) <- (G, C) min(1, S/|(G, C)|)
    noise     G + (Z + Z')/2,  C + N        Z, N iid normal with standard deviations s_G, s_C

The symmetric noise has variance s^2 on the diagonal and s^2/2 beside it: the Gaussian mechanism in the
coordinates (G_ii, sqrt(2) G_ij), in which the norm of a symmetric matrix is the Frobenius norm. So (G, C) is one
release of sensitivity Delta at s = m Delta, whatever d.

What this does not cover: the last bits of float64 (Mironov 2012, https://doi.org/10.1145/2382196.2382264); the
integers of `skellam` have none. d features, c classes, n samples.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.privacy.mechanisms.sensitivity import check_bound
from fedlab.stats import NoisyGram
from fedlab.stats.arithmetic.triangle import triangle_entries, unflatten

INSIDE = 1 - 2.0**-40
"""Clipped norms stay inside their bound by more than float64 rounds."""


def clip_rows(x: Float64[Tensor, "n d"], clip: float, scale: float | None = None) -> Float64[Tensor, "n d"]:
    """Return rows of norm at most B, in the direction that they had.

    Args:
        x: Features, or the integers that stand for them. Finite: see
            `fedlab.stats.arithmetic.samples.check_features`.
        clip: Bound B > 0, in units of the features.
        scale: Integer units per 1.0 of a feature; None for plain features.

    Raises:
        BadInput: B is no bound, a row is not finite, or B is so small that a row of integers would vanish.
    """
    bound = check_bound("clip", clip) * (scale or 1.0) * INSIDE
    if scale is not None and bound < 1:
        raise BadInput(
            f"clip={clip} is less than one step of the fixed point (1/{scale:g}): nothing would be left; raise "
            "clip, or bits"
        )
    norms = x.square().sum(1, keepdim=True).sqrt()
    if not bool(torch.isfinite(norms).all()):  # NaN would pass every comparison
        raise BadInput("a row is NaN or infinite: it cannot be clipped, and is not summed")
    clipped = torch.where(norms > bound, x * (bound / norms.clamp(min=1e-300)), x)
    return clipped if scale is None else clipped.trunc()


def clip_statistics(statistics: NoisyGram, bound: float) -> NoisyGram:
    """Return a client's whole statistics, of joint Frobenius norm at most S, in units of the features.

    Integers stay integers: they are rounded towards zero, which passes no bound.

    Raises:
        BadInput: S is no bound, or an entry is not finite.
    """
    size = check_bound("clip", bound) * INSIDE
    plain = statistics.real()
    norm = math.sqrt(float(plain.gram.square().sum() + plain.cross.square().sum()))
    if not math.isfinite(norm):
        raise BadInput("a client's statistics are NaN or infinite: they cannot be clipped, nor summed")
    if norm <= size:
        return statistics
    gram, cross = (part.to(torch.float64) * (size / norm) for part in (statistics.gram, statistics.cross))
    if statistics.scale is None:
        return NoisyGram(gram, cross)
    return NoisyGram(gram.trunc().to(torch.int64), cross.trunc().to(torch.int64), statistics.scale)


def symmetric_gaussian(
    statistics: NoisyGram, gram_deviation: float, cross_deviation: float, rng: np.random.Generator
) -> NoisyGram:
    """Return G + (Z + Z')/2 and C + N, in units of the features.

    Args:
        statistics: Sums, clipped: this function cannot know to what.
        gram_deviation, cross_deviation: Standard deviations s_G >= 0 and s_C > 0, in units of the features; s_G = 0
            where G is public.
        rng: Random numbers, of the operating system's entropy where the data are real.

    Raises:
        BadInput: A deviation is negative or not finite.
    """
    for name, s in (("gram_deviation", gram_deviation), ("cross_deviation", cross_deviation)):
        checks.number(name, s, least=0)
    plain = statistics.real()
    d = plain.num_features
    # Entries on and above the diagonal are enough: (Z + Z')/2 beside it is normal with variance s^2/2.
    z = unflatten(rng.standard_normal(triangle_entries(d)), d, d, np.float64) * math.sqrt(0.5)
    z += np.triu(z, 1).T
    z[np.diag_indices(d)] *= math.sqrt(2.0)
    n = rng.standard_normal((d, plain.num_classes))
    return NoisyGram(
        plain.gram + torch.from_numpy(z * gram_deviation).to(plain.gram.device),
        plain.cross + torch.from_numpy(n * cross_deviation).to(plain.cross.device),
        None,
        plain.gram_variance + gram_deviation**2,
        plain.cross_variance + cross_deviation**2,
    )
