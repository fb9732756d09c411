"""Reading features off statistics.

    one sample:            G = xx', C = xy'        x is the top eigenvector of G, up to sign, and the column y of C
    one sample of a class:  C e_y = x               whatever else the client holds
    a population known:     E[x | C e_y] = mu + S (m S + s^2 I)^-1 (C e_y - m mu)

The last line is the posterior mean of one of m samples of a class with mean mu and covariance S, under noise of
variance s^2. Success is the best |cosine| with a true row, which a scale or a sign cannot spoil. d features, c
classes, n rows.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab.audit.leakage import Public
from fedlab.stats import NoisyGram
from fedlab.stats.arithmetic.solve import one_thread


def directions(upload: NoisyGram, tries: int) -> Float64[Tensor, "m d"]:
    """Return guesses at rows: the `tries` top eigenvectors of G, then the columns of C that are not zero, unit norm."""
    plain = upload.real()
    with one_thread():
        _, vectors = torch.linalg.eigh(plain.gram.cpu())
    top = vectors.T.flip(0)[:tries]
    columns = plain.cross.cpu().T
    norms = columns.norm(dim=1, keepdim=True)
    return torch.cat([top, (columns / norms.clamp(min=1e-300))[norms[:, 0] > 0]])


def best_cosine(guesses: Float64[Tensor, "m d"], rows: Float64[Tensor, "n d"]) -> float:
    """Return the largest |cosine| of a guess with a row; 0 where there is no guess."""
    if not len(guesses):
        return 0.0
    cosines = torch.nn.functional.normalize(guesses, dim=1) @ torch.nn.functional.normalize(rows, dim=1).T
    return min(1.0, float(cosines.abs().max()))


def random_cosine(rows: Float64[Tensor, "n d"], tries: int, draws: int, generator: torch.Generator) -> float:
    """Return what as many random directions reach with these rows, on average over `draws`."""
    guesses = torch.randn(draws, tries, rows.shape[1], generator=generator, dtype=torch.float64)
    unit = torch.nn.functional.normalize
    cosines = unit(guesses, dim=2) @ unit(rows, dim=1).T
    return float(cosines.abs().amax(dim=(1, 2)).mean())


def informed(upload: NoisyGram, label: int, public: Public, samples: float = 1.0) -> Float64[Tensor, "1 d"]:
    """Return the posterior mean of a sample of this class, of `samples` >= 1 that the column is a sum of."""
    column, mu, s = upload.real().cross[:, label].cpu(), public.means[label], public.covariances[label]
    if samples == 1 and upload.cross_variance == 0:
        return column[None]  # nothing hides it, whatever the population is like
    system = samples * s
    # A direction in which nothing scatters and no noise lies has nothing to solve for.
    floor = 1e-9 * float(s.diagonal().mean()) + math.ulp(0.0)
    system.diagonal().add_(max(upload.cross_variance, floor))
    with one_thread():
        surprise = torch.linalg.solve(system, column - samples * mu)
    return (mu + s @ surprise)[None]
