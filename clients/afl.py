"""AFL's client: reduce the local samples to ridge statistics, once.

    observe(X, Y) = (G, C, n)       fit = solve       scores(h) = h W,  h = expansion(X)

He et al., AFL, CVPR 2025, https://arxiv.org/abs/2405.16240. n samples, d0 backbone features, d features after
the expansion, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedlab.analytic import Analytic


@dataclass(frozen=True)
class AFL(Analytic):
    """The analytic learner of one round; its parameters are those of `Analytic`."""
