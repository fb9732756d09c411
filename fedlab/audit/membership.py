"""Telling whether a sample is among those that were summed.

    others known:     <upload - others, (xx', xy')>                     Neyman and Pearson's test of Gaussian noise
    others unknown:   log x'(n M + g I)^-1 x - log x'(P(G) + g I)^-1 x   leverage, against that of the population
    head alone:       log p(x'W | x in) - log p(x'W | x out)            likelihoods from heads of other samples

The first is the adversary that differential privacy is defined against: at multiplier m its score shifts by 1/m
standard deviations for a sample of the largest norm, so AUC = Phi(1 / (m sqrt 2)). The second knows the
population's M = E[xx'] only: a sample that was summed has less leverage than it would have otherwise. The third is
LiRA (Carlini et al., 2022, https://arxiv.org/abs/2112.03570); in closed form one head per random half of the
samples gives both worlds of every sample, for

    y - x'W_in = (y - x'W_out) / (1 + h),   h = x'(G_out + g I)^-1 x

Exact without noise; under noise P, which sets negative eigenvalues to zero, moves with x a little, and this is an
approximation. d features, c classes, n candidates, s shadow heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from fedlab.audit.leakage import Public
from fedlab.stats import NoisyGram
from fedlab.stats.arithmetic.solve import one_thread

TINY = 1e-10
"""Ridge relative to a system's size, where no noise asks for more."""


def known_others(rest: NoisyGram, x: Float64[Tensor, " d"], y: Float64[Tensor, " c"]) -> float:
    """Return the score of a candidate, given the upload minus everything else that is in it."""
    plain = rest.real()
    return float(x @ plain.gram @ x + x @ plain.cross @ y)


def unknown_others(
    upload: NoisyGram, samples: float, x: Float64[Tensor, "n d"], public: Public
) -> Float64[np.ndarray, " n"]:
    """Return the scores of candidates, given an upload that stands for so many samples, and the population."""
    plain = upload.real()
    expected = samples * public.second_moment
    g = max(upload.noise_ridge, TINY * float(expected.trace()))
    seen, usual = _leverage(plain.gram.cpu(), g, x), _leverage(expected, g, x)
    return (usual.log() - seen.log()).numpy()


@dataclass(frozen=True, eq=False)
class Shadow:
    """What candidates' scores would be under a head of other samples.

    Attributes:
        inside, outside: Scores x'W with the candidate summed, and without: (n, c).
    """

    inside: Float64[Tensor, "n c"]
    outside: Float64[Tensor, "n c"]

    @classmethod
    def of(
        cls,
        upload: NoisyGram,
        ridge: float | str,
        x: Float64[Tensor, "n d"],
        y: Float64[Tensor, "n c"],
        member: Bool[Tensor, " n"],
    ) -> Shadow:
        """Solve once; a rank-one step gives each candidate's other world.

        Args:
            upload: Statistics whose samples the attacker knows.
            ridge: Ridge of the head: a number, or 'noise'.
            x, y, member: Candidates, one-hot targets, and who of them is among those samples.
        """
        solution = upload.solution(ridge)
        h = _leverage(upload.real().gram.cpu(), solution.ridge, x)
        error = y - x @ solution.weight
        there = member[:, None]
        step = h.clamp(max=1 - TINY)[:, None]
        inside = torch.where(there, error, error / (1 + h[:, None]))
        outside = torch.where(there, error / (1 - step), error)
        return cls(y - inside, y - outside)


def from_head(
    weight: Float64[Tensor, "d c"], shadows: list[Shadow], x: Float64[Tensor, "n d"]
) -> Float64[np.ndarray, " n"]:
    """Return the log-likelihood ratios of candidates, given a head and shadow heads made in the same way.

    Scores are taken as normal around each candidate's own means, with one variance per class for all.
    """
    inside = torch.stack([shadow.inside for shadow in shadows])
    outside = torch.stack([shadow.outside for shadow in shadows])
    variance = 0.5 * (inside.var(0) + outside.var(0)).mean(0) + 1e-300
    seen = x @ weight
    distance = (seen - outside.mean(0)).square() - (seen - inside.mean(0)).square()
    return (distance / (2 * variance)).sum(1).numpy()


def _leverage(gram: Float64[Tensor, "d d"], ridge: float, x: Float64[Tensor, "n d"]) -> Float64[Tensor, " n"]:
    """Return x'(P(G) + g I)^-1 x."""
    with one_thread():
        values, vectors = torch.linalg.eigh(gram)
        return ((x @ vectors).square() / (values.clamp(min=0) + ridge)).sum(1)
