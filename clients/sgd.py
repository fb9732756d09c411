"""The gradient client that closed form is compared with: local SGD on the same features.

    w <- w - lr (grad CE(w; batch) + mu (w - w_global))        E local epochs, batches of B

mu = 0 is FedAvg's client (McMahan et al., AISTATS 2017, https://arxiv.org/abs/1602.05629); mu > 0 is
FedProx's (Li et al., MLSys 2020, https://arxiv.org/abs/1812.06127). The rule is `fedlab.gradient.descent`, and
what it trains one of `fedlab.gradient.networks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fedlab import checks
from fedlab.analytic import Expansion, Identity
from fedlab.errors import BadInput
from fedlab.gradient import Descent, Linear, Network, Stacked
from fedlab.gradient.learner import GradientLearner, tensors
from fedlab.method import Answer, Arrays, Config
from fedlab.stats.arithmetic.samples import check_labels


@dataclass(frozen=True)
class SGD(GradientLearner):
    """Local stochastic gradient descent on a head or a small network.

    Args:
        num_classes: Number of classes c.
        expansion: Map to the features; that of the analytic learner, so that heads are compared and not features.
        network: Network that is trained on them.
        epochs: Number of local epochs E.
        batch_size: Number B of samples of a batch.
        learning_rate: Learning rate lr.
        momentum: Momentum of the local optimiser; 0 is plain SGD.
    """

    num_classes: int
    expansion: Expansion = field(default_factory=Identity)
    network: Network = field(default_factory=Linear)
    epochs: int = 1
    batch_size: int = 10
    learning_rate: float = 0.1
    momentum: float = 0.0

    def __post_init__(self) -> None:
        checks.integer("num_classes", self.num_classes, least=1)
        self._descent({})  # refuses a setting out of range here rather than at the first sample

    def train(self, arrays: Arrays, config: Config, x: Tensor, labels: Tensor, seed: int) -> Answer:
        """Return the model after local training, the number of samples and the last epoch's mean loss."""
        h = self.features(x)
        check_labels(labels, self.num_classes, len(x))
        model, loss = self._descent(config).run(
            self.network, tensors(arrays, h.device), h, labels.to(torch.int64), seed
        )
        return _arrays(model), {"num-examples": len(h), "train-loss": loss}

    def train_many(
        self, arrays: Arrays, config: Config, xs: Sequence[Tensor], labels: Sequence[Tensor], seeds: Sequence[int]
    ) -> list[Answer] | None:
        """Return what `train` answers for each client, to 1e-5, or None where it had better be asked itself.

        None where stacks of models do not pay (a single client, or a network too large), and where samples would
        be refused: then each client answers, or fails, for itself.

        Args:
            arrays, config: Global model and settings of the round, the same for all.
            xs, labels: Backbone features (n_i, d0) and classes (n_i,) of each client; n_i = 0 is legal.
            seeds: Seeds of each client's order of batches.
        """
        sizes = [len(x) for x in xs]
        if sum(n > 0 for n in sizes) < 2:
            return None
        start = tensors(arrays, xs[0].device)
        d = self.expansion.out_features(xs[0].shape[1])
        stacked = Stacked(self.network, self._descent(config), d, self.num_classes)
        if not stacked.pays(start):
            return None
        untrained = _arrays(start)
        answers: list[Answer] = [(untrained, {"num-examples": 0, "train-loss": 0.0}) for _ in xs]
        try:
            for group in stacked.groups(start, sizes):
                if len(group) == 1:
                    (i,) = group
                    answers[i] = self.train(arrays, config, xs[i], labels[i], seeds[i])
                    continue
                together = torch.cat([labels[i] for i in group])
                check_labels(together, self.num_classes, sum(sizes[i] for i in group))
                h = self.features(torch.cat([xs[i] for i in group]))
                models, losses = stacked.run(
                    start, h, together.to(torch.int64), [sizes[i] for i in group], [seeds[i] for i in group]
                )
                stack = _arrays(models)
                for k, (i, loss) in enumerate(zip(group, losses.tolist(), strict=True)):
                    model = {name: array[k] for name, array in stack.items()}
                    answers[i] = model, {"num-examples": sizes[i], "train-loss": loss}
        except BadInput:
            return None
        return answers

    def _descent(self, config: Config) -> Descent:
        proximal = config.get("proximal-mu", 0.0)
        assert isinstance(proximal, (int, float))
        return Descent(self.epochs, self.batch_size, self.learning_rate, self.momentum, float(proximal))


def _arrays(model: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: array.cpu().numpy() for name, array in model.items()}
