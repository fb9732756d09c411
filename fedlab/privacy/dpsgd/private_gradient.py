"""DP-SGD: every sample's gradient clipped by itself, Gaussian noise on their sum, a batch that chance alone draws.

    g = ( sum_{i in S} min(1, C / |g_i|) g_i + N(0, (m C)^2 I) ) / B            S: each sample with probability q

T steps, whose cost is that of `calibration`. B is a public number, not |S|: how many were drawn is data. An empty S
is a step of noise alone, and is taken. Opacus finds the gradients, clips and adds the noise; its
`PrivacyEngine.make_private` would take q = 1 / ceil(n / B), a function of the private n that no client with fewer
than B samples can use, so its parts are put together here.

What is trained is any torch module, with any optimiser, by a function that returns one loss per sample: for a
language model the mean over a sequence's own tokens. A loss over a batch (`model(..., labels=).loss`) divides by
the tokens of all, so that one sequence changes the gradients of others before they are clipped: it is refused.

Abadi et al., Deep Learning with Differential Privacy, CCS 2016, https://arxiv.org/abs/1607.00133.
n samples, d parameters that are trained.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.privacy.accounting.calibration import PrivacyCertificate, certify, check_sampling
from fedlab.privacy.dpsgd.per_sample import CLIPPING, Losses, Samples, check_module, mixing, per_sample
from fedlab.privacy.libraries import part
from fedlab.privacy.mechanisms.noise_source import check_entropy
from fedlab.privacy.mechanisms.sensitivity import check_bound

STATE_WORDS = slice(3, 3 + 624)
"""Where the words of the Mersenne twister lie in the state of torch's generator, as 64-bit numbers."""


class Rows(TensorDataset):
    """Tensors of equal length as samples; a batch is a tuple of their rows."""

    def __init__(self, *tensors: Tensor):
        if len({len(tensor) for tensor in tensors}) != 1:
            raise BadInput(f"samples of {[len(tensor) for tensor in tensors]} rows do not belong together")
        super().__init__(*tensors)


@dataclass(frozen=True)
class Taken:
    """The steps that were taken."""

    noise_multiplier: float
    sampling_probability: float
    steps: int

    def certificate(self, delta: float) -> PrivacyCertificate:
        """Return what they cost at delta, for one sample added or removed."""
        return certify(self.noise_multiplier, self.sampling_probability, self.steps, delta)


@dataclass(frozen=True)
class DPSGD:
    """The rule. All of it is public: none of these numbers may be computed from the data.

    Args:
        clip: Largest norm C > 0 of a sample's gradient.
        noise_multiplier: Noise multiplier m >= 0, e.g. of `calibrate`; 0 clips without noise, and its certificate
            says infinity.
        sampling_probability: Probability q in (0, 1] of each sample to be in a step.
        steps: Number of steps T >= 1.
        expected_batch: Public number B > 0 that the sums are divided by.
        physical_batch: Samples that pass the module at once: memory, and nothing else.
        clipping: Way to clip, 'ghost' or 'hooks': the same sums, to rounding.

    Raises:
        BadInput: One of them is out of range.
    """

    clip: float
    noise_multiplier: float
    sampling_probability: float
    steps: int
    expected_batch: float
    physical_batch: int = 256
    clipping: str = "ghost"

    def __post_init__(self) -> None:
        check_bound("clip", self.clip)
        check_sampling(self.sampling_probability)
        check_bound("expected_batch", self.expected_batch)
        checks.number("noise_multiplier", self.noise_multiplier, least=0)
        for name in ("steps", "physical_batch"):
            checks.integer(name, getattr(self, name), least=1)
        checks.choice("clipping", self.clipping, CLIPPING)

    def train(
        self,
        module: nn.Module,
        samples: Samples,
        losses: Losses,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        secure: bool = False,
        probe: bool = True,
    ) -> Taken:
        """Train a module in place, without wrapping it, and return the steps that were taken.

        A sample whose gradient is not finite contributes nothing. Dropout draws from torch's global generator.

        Args:
            module: Module whose parameters that require a gradient are trained. It is left without hooks.
            samples: Samples, n of them; with n = 0 every step is noise alone.
            losses: Loss per sample.
            optimizer: Optimiser, any of torch's, over parameters of the module; it is given noisy mean gradients.
            generator: Generator on the CPU, of the batches and the noise: see `generator_of`.
            secure: Whether to sum several draws for each number of noise, against attacks on floating point (Holohan
                and Braghin, https://arxiv.org/abs/2107.10138).
            probe: Whether to compare Opacus with autograd on a sample before the first step; whoever trains the same
                module a thousand times may do so once.

        Raises:
            BadInput: The module, or the loss, cannot be treated sample by sample; the message names the part and the
                remedy.
        """
        check_module(module)
        known = set(module.parameters())
        if any(p not in known for group in optimizer.param_groups for p in group["params"]):
            raise BadInput("the optimizer trains parameters that are not the module's")
        kind = "DPOptimizer" if self.clipping == "hooks" else "DPOptimizerFastGradientClipping"
        private = part("opacus.optimizers", kind)(
            optimizer,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.clip,
            expected_batch_size=None,
            loss_reduction="sum",
            generator=_on(next(iter(known)).device, generator),
            secure_mode=secure,
        )
        steps = 0

        def divide(_: object) -> None:
            nonlocal steps
            steps += 1
            for p in private.params:
                p.grad /= self.expected_batch

        private.attach_step_hook(divide)
        with _training(module), per_sample(module, private, self.clip, self.clipping) as gradients:
            if probe and len(samples):
                gradients.probe(samples, losses)
            for rows in self._batches(len(samples), generator, private):
                private.zero_grad()
                gradients.add(rows, samples, losses)
                private.step()
            private.zero_grad()
        return Taken(self.noise_multiplier, self.sampling_probability, steps)

    def _batches(self, n: int, generator: torch.Generator, private: Any) -> Iterator[list[int]]:
        """Yield physical batches; `private` is told which of them ends a step."""
        if not n:
            batches: Any = [[]] * self.steps
        else:
            batches = part("opacus.utils.uniform_sampler", "UniformWithReplacementSampler")(
                num_samples=n, sample_rate=self.sampling_probability, generator=generator, steps=self.steps
            )
        split = part("opacus.utils.batch_memory_manager", "BatchSplittingSampler")
        yield from split(sampler=batches, max_batch_size=self.physical_batch, optimizer=private)


def generator_of(entropy: str, seed: int) -> torch.Generator:
    """Return a generator on the CPU for `DPSGD.train`: the seed's ('seeded'), or one of the operating system's ('os').

    torch's `manual_seed` keeps 32 bits of a seed on the CPU, so few that all can be tried, and that clients come to
    share them: the whole state is drawn, and the seed may have any size.
    """
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state().numpy().copy()
    if check_entropy(entropy) == "os":
        drawn = np.frombuffer(os.urandom(4 * 624), np.uint32)
    else:
        drawn = np.random.SeedSequence(seed).generate_state(624, np.uint32)
    state.view(np.uint64)[STATE_WORDS] = drawn
    generator.set_state(torch.from_numpy(state))
    return generator


@contextmanager
def _training(module: nn.Module) -> Iterator[None]:
    """Put a module into training mode, each part of it back into its own afterwards.

    A BatchNorm that is frozen stays as it was evaluated: in training it would average over the samples.
    """
    before = {layer: layer.training for layer in module.modules()}
    module.train()
    for layer in mixing(module):
        layer.eval()
    try:
        yield
    finally:
        for layer, mode in before.items():
            layer.training = mode


def _on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """Return a generator of noise where the parameters are."""
    if device.type == "cpu":
        return generator
    seed = int(torch.randint(2**63 - 1, (1,), generator=generator))
    return torch.Generator(device).manual_seed(seed)
