"""Local SGD of one client: E epochs over its samples in batches of B, each epoch in a new order.

    v <- beta v + mu (w - w_global) + grad CE(w; batch)        w <- w - lr v

mu = 0 is FedAvg's client (McMahan et al., AISTATS 2017, https://arxiv.org/abs/1602.05629); mu > 0 is FedProx's
(Li et al., MLSys 2020, https://arxiv.org/abs/1812.06127); beta = 0 is plain SGD. All of it in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from fedlab import checks
from fedlab.gradient.networks import Model, Network


@dataclass(frozen=True)
class Descent:
    """The rule of local training.

    Args:
        epochs: Number of passes over the samples, E.
        batch_size: Samples per step, B.
        learning_rate: Learning rate of SGD, without decay.
        momentum: Momentum beta of this client's own steps; it starts at rest in every round.
        proximal: Weight mu of FedProx's pull to the global model; 0 is FedAvg.
    """

    epochs: int = 1
    batch_size: int = 10
    learning_rate: float = 0.1
    momentum: float = 0.0
    proximal: float = 0.0

    def __post_init__(self) -> None:
        checks.integer("epochs", self.epochs, least=1)
        checks.integer("batch_size", self.batch_size, least=1)
        checks.number("learning_rate", self.learning_rate, above=0)
        checks.number("momentum", self.momentum, least=0, below=1)
        checks.number("proximal-mu", self.proximal, least=0)

    def orders(self, n: int, seed: int) -> Iterable[Int64[Tensor, " n"]]:
        """Yield each epoch's order of n samples; the seed alone decides."""
        generator = torch.Generator().manual_seed(seed)
        return (torch.randperm(n, generator=generator) for _ in range(self.epochs))

    def run(
        self, network: Network, start: Model, h: Float32[Tensor, "n d"], labels: Int64[Tensor, " n"], seed: int
    ) -> tuple[Model, float]:
        """Return the trained model and the last epoch's mean loss; no samples return the start and 0.

        Args:
            network: Network that is trained.
            start: Global model; it is not changed.
            h, labels: Features and classes of this client.
            seed: Seed of the order of the batches.
        """
        model = {name: array.clone() for name, array in start.items()}
        velocity = self.rest(model)
        total = 0.0
        for order in self.orders(len(h), seed) if len(h) else ():
            total = 0.0
            for rows in order.to(h.device).split(self.batch_size):
                share = h.new_full((len(rows),), 1 / len(rows))
                loss = self.step(network, model, h[rows], labels[rows], share, start, velocity)
                total += float(loss) * len(rows)
        return model, total / max(1, len(h))

    def rest(self, model: Mapping[str, Tensor]) -> Model | None:
        """Return v before the first step; plain SGD needs none."""
        needed = self.momentum or self.proximal
        return {name: torch.zeros_like(array) for name, array in model.items()} if needed else None

    def step(
        self,
        network: Network,
        model: Model,
        h: Tensor,
        labels: Tensor,
        share: Tensor,
        start: Mapping[str, Tensor],
        velocity: Model | None,
    ) -> Tensor:
        """Change the model and v in place, and return the batch's loss before; a stack of models steps like one."""
        if velocity is None:
            return network.descend(model, h, labels, share, model, -self.learning_rate)
        for name, v in velocity.items():
            v.mul_(self.momentum)
            if self.proximal:
                v.add_(model[name] - start[name], alpha=self.proximal)
        loss = network.descend(model, h, labels, share, velocity, 1.0)
        for name, w in model.items():
            w.add_(velocity[name], alpha=-self.learning_rate)
        return loss
