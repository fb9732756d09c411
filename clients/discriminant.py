"""Diagonal discriminant analysis on the client: three sums over its samples, sent once.

    N = Y'1      S = Y'H      q = 1'(H o H)      H = expansion(X),  Y one-hot
    scores(h) = h W + b                          W, b are the server's, made of everybody's sums

Sums of clients are the sums of all their samples: who holds which sample does not matter.

S. Dudoit et al., JASA 2002, https://doi.org/10.1198/016214502753479248
n samples, d0 backbone features, d features after the expansion, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab.analytic import Expansion, Identity
from fedlab.method import Answer, Arrays, Config, Learner
from fedlab.stats.arithmetic.samples import check_features, one_hot


@dataclass(frozen=True)
class Discriminant(Learner):
    """Sums of a client's samples, and the scores of a linear model.

    Args:
        num_classes: Number of classes c; one that a client does not hold is a row of zeros.
        expansion: Map from backbone features to those that are summed: the other methods', so that methods are
            compared.
    """

    num_classes: int
    expansion: Expansion = field(default_factory=Identity)

    def train(self, arrays: Arrays, config: Config, x: Tensor, labels: Tensor, seed: int) -> Answer:
        """Return N (c,), S (c, d) and q (d,), and no metrics; model, settings and seed do not matter."""
        h = self.features(x)
        y = one_hot(labels, self.num_classes).to(h.device)
        sums = {"counts": y.sum(0), "sums": y.T @ h, "squares": (h * h).sum(0)}
        return {name: array.cpu().numpy() for name, array in sums.items()}, {}

    def features(self, x: Tensor) -> Float64[Tensor, "n d"]:
        """Return what is summed and what the model multiplies, of backbone features (n, d0)."""
        check_features(x)  # a sum cannot be searched for the NaN that spoilt it
        return self.expansion(x.to(torch.float64))

    def scores(self, arrays: Arrays, h: Tensor) -> Float64[Tensor, "n c"]:
        """Return h W + b."""
        weight, bias = (torch.tensor(arrays[name], device=h.device) for name in ("weight", "bias"))
        return h @ weight + bias
