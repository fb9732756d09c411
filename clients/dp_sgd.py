"""The gradient client under differential privacy: every round some steps of DP-SGD, for one sample, against all.

    w <- w - lr ( sum_{i in S} min(1, C / |g_i|) g_i + N(0, (m C)^2 I) ) / B        S: each sample with probability q

The noise is in the model before it leaves, so the server need not be trusted; m is calibrated so that all rounds
together keep (epsilon, delta). What else a client would say is data: how many samples it has, its loss. So it
answers with a weight of 1, as everyone does, and with nothing beside the model; one without samples sends noise.
q, B and the steps are public numbers that are the same for all, not batch / n.

Abadi et al., Deep Learning with Differential Privacy, CCS 2016, https://arxiv.org/abs/1607.00133. What is trained is
one of `fedlab.gradient.networks`; (n, d0) features, (n,) labels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedlab import checks
from fedlab.analytic import Expansion, Identity
from fedlab.errors import BadInput
from fedlab.gradient import Linear, Network
from fedlab.gradient.learner import GradientLearner, tensors
from fedlab.gradient.modules import model_of, module_of
from fedlab.method import Answer, Arrays, Config
from fedlab.privacy.accounting.calibration import calibrate
from fedlab.privacy.dpsgd import private_gradient as dpsgd
from fedlab.privacy.dpsgd.private_gradient import Rows, generator_of
from fedlab.privacy.mechanisms.noise_source import check_entropy
from fedlab.stats.arithmetic.samples import check_labels


@dataclass(frozen=True)
class DPSGD(GradientLearner):
    """DP-SGD on a head or a small network.

    Args:
        num_classes: Number of classes c.
        epsilon, delta: Privacy of all rounds together for one sample, added or removed.
        rounds: Number of rounds in which a client may be asked.
        steps: Number T of steps of one round.
        sampling_probability: Probability q in (0, 1] of a sample in a step: a public number.
        batch_size: Number B of samples that a batch is expected to have; a public number.
        clip: Clip norm C.
        expansion, network: Map to the features, and network that is trained on them.
        learning_rate, momentum: Settings of the local optimiser.
        clipping: Way of clipping, 'ghost' or 'hooks': the same sums.
        noise_multiplier: Noise multiplier m; None calibrates it. The strategy is told the same.
        entropy: Source of the noise: 'seeded', or 'os' for noise that nobody can draw again.

    Raises:
        BadInput: One of them is out of range.
    """

    num_classes: int
    epsilon: float = 1.0
    delta: float = 1e-5
    rounds: int = 10
    steps: int = 1
    sampling_probability: float = 1.0
    batch_size: float = 1.0
    clip: float = 1.0
    expansion: Expansion = field(default_factory=Identity)
    network: Network = field(default_factory=Linear)
    learning_rate: float = 0.1
    momentum: float = 0.0
    clipping: str = "ghost"
    noise_multiplier: float | None = None
    entropy: str = "seeded"

    def __post_init__(self) -> None:
        for name in ("num_classes", "rounds"):
            checks.integer(name, getattr(self, name), least=1)
        checks.number("learning_rate", self.learning_rate, above=0)
        checks.number("momentum", self.momentum, least=0, below=1)
        checks.number("batch_size", self.batch_size, above=0, remedy="how many samples a batch is expected to have")
        check_entropy(self.entropy)
        self._rule(1.0)  # refuses a setting out of range here rather than at the first sample

    def train(self, arrays: Arrays, config: Config, x: Tensor, labels: Tensor, seed: int) -> Answer:
        """Return the noisy model, and the weight that everyone has; a client without samples answers alike.

        Raises:
            BadInput: A sample is no sample; this much a client tells that has a broken one.
        """
        terms = config.get("dp-sgd")
        own = [self.multiplier, self.sampling_probability, float(self.steps)]
        if terms is not None and terms != own:
            raise BadInput(
                f"the server reckons with noise multiplier, sampling probability and steps {terms}, this client with "
                f"{own}: give both the same promise, rounds and steps"
            )
        h = self.features(x)
        check_labels(labels, self.num_classes, len(x))
        _probe(self.network, h.shape[1], self.num_classes, self.clipping)
        module = module_of(self.network, tensors(arrays, h.device))
        optimizer = torch.optim.SGD(module.parameters(), lr=self.learning_rate, momentum=self.momentum)
        self._rule(self.multiplier).train(
            module,
            Rows(h, labels.to(torch.int64)),
            _losses,
            optimizer,
            # Other samples, another model or other noise, another draw.
            generator_of(self.entropy, _drawn_for(seed, own, arrays, h, labels)),
            secure=self.entropy == "os",
            probe=False,
        )
        return {name: array.cpu().numpy() for name, array in model_of(module).items()}, {"num-examples": 1}

    @cached_property
    def multiplier(self) -> float:
        """The noise multiplier m of every step."""
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        return calibrate(self.epsilon, self.delta, self.sampling_probability, self.rounds * self.steps)

    def _rule(self, noise_multiplier: float) -> dpsgd.DPSGD:
        return dpsgd.DPSGD(
            self.clip, noise_multiplier, self.sampling_probability, self.steps, self.batch_size, clipping=self.clipping
        )


def _losses(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    h, labels = batch
    return cross_entropy(module(h), labels, reduction="none")


@lru_cache(maxsize=16)  # a thousand clients train the same network
def _probe(network: Network, d: int, num_classes: int, clipping: str) -> None:
    """Check Opacus on this network, on a sample that is nobody's."""
    start = {name: torch.tensor(array) for name, array in network.initial(d, num_classes, 0).items()}
    module = module_of(network, start)
    rule = dpsgd.DPSGD(1.0, 0.0, 1.0, 1, 1.0, clipping=clipping)
    h = torch.arange(d, dtype=torch.float32).sin().unsqueeze(0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    rule.train(module, Rows(h, torch.zeros(1, dtype=torch.int64)), _losses, optimizer, torch.Generator())


def _drawn_for(seed: int, own: list[float], arrays: Arrays, h: Tensor, labels: Tensor) -> int:
    """Return a number that all its noise is drawn for depends on: the same on two models would give both away."""
    digest = hashlib.sha256(repr((seed, own)).encode())
    for array in (*arrays.values(), h.cpu().numpy(), labels.cpu().numpy()):
        digest.update(np.ascontiguousarray(array).tobytes())
    return int.from_bytes(digest.digest())
