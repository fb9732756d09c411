"""Learners by gradients: a network's weights are the model, (n, d) expanded features its input; c classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from fedlab.gradient.networks import Network
from fedlab.method import Arrays, Learner
from fedlab.stats.arithmetic.samples import check_features


class GradientLearner(Learner):
    """What learners of a network share; the three settings are theirs to give."""

    num_classes: int
    expansion: Any  # of `fedlab.analytic`, of which this room knows nothing
    network: Network

    def initial(self, d0: int, seed: int) -> dict[str, np.ndarray]:
        """Return the network's initial model."""
        return self.network.initial(self.expansion.out_features(d0), self.num_classes, seed)

    def features(self, x: Tensor) -> Float32[Tensor, "n d"]:
        """Return the expanded features."""
        check_features(x)
        return self.expansion(x.to(torch.float64)).to(torch.float32)

    def scores(self, arrays: Arrays, h: Tensor) -> Float32[Tensor, "n c"]:
        """Return the logits."""
        return self.network.logits(tensors(arrays, h.device), h)


def tensors(arrays: Arrays, device: torch.device) -> dict[str, Tensor]:
    """Return copies of a model's arrays on a device."""
    return {name: torch.tensor(array, device=device) for name, array in arrays.items()}
