"""Reading a client's class histogram off its statistics.

    sent:     class_counts / n
    from C:   n_y ~ <C e_y, mu_y> / |mu_y|^2        variance s^2 / |mu_y|^2 of the noise, v_y of the samples themselves
    shrunk:   q_y = n p_y + V_y / (V_y + s^2 / |mu_y|^2) (n_y - n p_y)

Where no counts are sent, a column of C is n_y times its class's mean, up to scatter: its length tells n_y (a
constant feature would tell it exactly). Under noise the best linear guess shrinks towards what is expected of any
client; V_y is how far clients differ. The measure is 1 - TV(q, truth). d features, c classes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from fedlab.audit.leakage import Public
from fedlab.stats import NoisyGram


def histogram(
    upload: NoisyGram, samples: float, public: Public, spread: Float64[Tensor, " c"], share: float = 1.0
) -> Float64[Tensor, " c"]:
    """Return a guess at the class shares of one client.

    Args:
        upload: Statistics that are seen: of the client alone, or of a sum that it is in.
        samples: Number of samples that the upload stands for; the attacker may know the average client.
        public: Population.
        spread: Variance over clients of the share of each class.
        share: Share of the upload's samples that are the client's own; the others are the population's.
    """
    mu = public.means
    norms = mu.square().sum(1)
    counts = (upload.real().cross.cpu().T * mu).sum(1) / norms
    own = samples * share
    signal = spread * own**2
    scatter = samples * public.shares * torch.einsum("ci,cij,cj->c", mu, public.covariances, mu) / norms**2
    crowd = (samples - own) * public.shares * (1 - public.shares)
    trust = signal / (signal + scatter + crowd + upload.cross_variance / norms)
    guess = own * public.shares + trust * (counts - samples * public.shares)
    return shares(guess, public.shares)


def shares(counts: Float64[Tensor, " c"] | Int64[Tensor, " c"], prior: Float64[Tensor, " c"]) -> Tensor:
    """Return counts as shares, negative ones as none; the prior where nothing is left."""
    positive = counts.to(torch.float64).clamp(min=0)
    return positive / positive.sum() if float(positive.sum()) > 0 else prior


def agreement(guess: Float64[Tensor, " c"], truth: Float64[Tensor, " c"]) -> float:
    """Return 1 - TV: the share of a histogram that two have in common."""
    return 1 - 0.5 * float((guess - truth).abs().sum())
