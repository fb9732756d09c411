"""A private generator: a language model tuned by DP-SGD on texts behind control codes; `sampling` has it write.

    p(text | code)        code = `domain | label`, one loss per text, clipped and noised: `privacy.dpsgd`

What is written is post-processing: once the steps are in the ledger, any number of texts costs nothing more.

All of `PrivateGenerator` is public, the number of steps and the probability q of a text too: computed from the number
of texts they would tell it. How many texts were too long is data, and stays with whoever has the texts.

Yue et al., Synthetic Text Generation with Differential Privacy, ACL 2023, https://arxiv.org/abs/2210.14348;
Li et al., FDKT, 2024, https://arxiv.org/abs/2405.14212.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.llm.tuning.adapters import Adapters
from fedlab.llm.tuning.control_codes import examples_of
from fedlab.llm.tuning.losses import LOSSES, kind_of
from fedlab.llm.tuning.sampling import Written, sample, seeded
from fedlab.privacy.accounting.calibration import PrivacyCertificate, calibrate, certify
from fedlab.privacy.accounting.release import Release
from fedlab.privacy.dpsgd.private_gradient import DPSGD, Taken
from fedlab.privacy.mechanisms.gaussian import check_budget

__all__ = ["NO_NOISE", "PrivateGenerator", "Tuned", "Written", "sample"]

NO_NOISE = (
    "no noise was added (epsilon infinite): gradients were clipped, and the texts that are written promise nothing "
    "about those that were learned"
)


@dataclass(frozen=True)
class PrivateGenerator:
    """How the generator is tuned. All of it is public: none of these numbers may be computed from the texts.

    Args:
        epsilon, delta: Privacy of all steps together for one text, added or removed; epsilon infinite, or None, clips
            without noise.
        steps, epochs: Number of steps T, or passes, of which T = ceil(epochs / q): one of the two.
        sampling_probability: Probability q in (0, 1] with which every text is in a step's batch, by itself.
        expected_batch: Number B > 0 by which sums of gradients are divided: q times a guess of the number of texts.
        clip: Clip norm C > 0.
        learning_rate: Learning rate of AdamW, without decay.
        max_tokens: Tokens of code, text and end together; texts are cut there, or where the model's context ends.
        adapters: Part of the model that is trained.
        clipping: Way of clipping, 'ghost' or 'hooks': the same sums, to rounding.
        physical_batch: Texts that pass the model at once: memory, and nothing else.
        noise_multiplier: Noise multiplier m; None calibrates it. 0 clips without noise.
        learn_codes: Whether the code's tokens count in the loss of a causal model.
    """

    epsilon: float | None = 3.0
    delta: float = 1e-5
    steps: int | None = None
    epochs: float | None = None
    sampling_probability: float = 0.05
    expected_batch: float = 32.0
    clip: float = 1.0
    learning_rate: float = 1e-3
    max_tokens: int = 256
    adapters: Adapters = field(default_factory=Adapters)
    clipping: str = "ghost"
    physical_batch: int = field(default=16, repr=False)  # of no other noise
    noise_multiplier: float | None = None
    learn_codes: bool = False

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise BadInput(f"steps={self.steps} and epochs={self.epochs}: give one of the two, as a public number")
        if self.epochs is not None:
            checks.number("epochs", self.epochs, above=0)
        check_budget(1.0 if self.noiseless else self.epsilon or 0.0, self.delta)
        checks.number("learning_rate", self.learning_rate, above=0)
        checks.integer("max_tokens", self.max_tokens, least=3, remedy="a code, a text and an end")
        self._rule(self.noise_multiplier or 0.0)  # refuses what is out of range before the first text

    @property
    def total_steps(self) -> int:
        """T: how many steps are taken."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None  # see `__post_init__`
        return math.ceil(round(self.epochs / self.sampling_probability, 9))

    @property
    def noiseless(self) -> bool:
        """Whether gradients are clipped and no noise is added."""
        if self.noise_multiplier is not None:
            return self.noise_multiplier == 0
        return self.epsilon is None or self.epsilon == math.inf

    @cached_property
    def multiplier(self) -> float:
        """The noise multiplier m of every step; 0 without noise."""
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        if self.noiseless:
            return 0.0
        assert self.epsilon is not None
        return calibrate(self.epsilon, self.delta, self.sampling_probability, self.total_steps)

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the settings."""
        return [NO_NOISE] if self.noiseless else []

    def certificate(self) -> PrivacyCertificate:
        """Return what the steps will cost, before one is taken."""
        return certify(self.multiplier, self.sampling_probability, self.total_steps, self.delta)

    def release(self, release_id: str, label: str, clients: tuple[int, ...] | None = None) -> Release:
        """Return the tuning as a ledger charges it: before it is begun.

        Args:
            release_id: Identity: `seeded_id` of all that the noise depends on, or `fresh_id`.
            label: Name, for people.
            clients: Owners of the texts; None for everyone.

        Raises:
            BadInput: There is no noise, and no number that a ledger could count.
        """
        if self.noiseless:
            raise BadInput(
                "epsilon is infinite (noise_multiplier 0): a ledger cannot count a release without noise; give an "
                "epsilon, or leave the run without a promise"
            )
        return Release(
            release_id,
            label,
            "subsampled_gaussian",
            noise_multiplier=self.multiplier,
            sampling_probability=self.sampling_probability,
            steps=self.total_steps,
            clients=clients,
        )

    def fit(
        self,
        model: nn.Module,
        tokenizer: Any,
        codes: Sequence[str],
        texts: Sequence[str],
        generator: torch.Generator,
        secure: bool = False,
    ) -> tuple[nn.Module, Tuned]:
        """Tune a copy of a model; what is given keeps its weights, and shares those that stay frozen.

        Args:
            model, tokenizer: Decoder of Hugging Face, or encoder with one, and its tokenizer.
            codes, texts: Codes and the texts behind them, n of each. Without any, every step is noise alone.
            generator: Random numbers on the CPU, of adapters, batches, dropout and noise:
                `fedlab.privacy.dpsgd.private_gradient.generator_of`.
            secure: Protection of the noise: see `fedlab.privacy.dpsgd.private_gradient.DPSGD.train`; for noise of the
                operating system.

        Returns:
            model, tuned: The model is not wrapped by Opacus and can write.

        Raises:
            BadInput: Codes and texts do not belong together, or the model cannot be clipped text by text.
        """
        if kind_of(model) == "class":
            raise BadInput(f"{type(model).__name__} writes no texts: choose a model with a language-model head")
        seeds = torch.randint(2**31, (2,), generator=generator).tolist()
        tuned = self.adapters.prepare(model, seeds[0])
        examples, cut = examples_of(tuned, tokenizer, codes, texts, self.max_tokens, self.learn_codes)
        trained = [p for p in tuned.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=0.0)
        with seeded(seeds[1]):  # dropout
            losses = LOSSES[examples.kind]
            taken = self._rule(self.multiplier).train(tuned, examples, losses, optimizer, generator, secure=secure)
        return tuned.eval(), Tuned(taken, self.delta, len(texts), cut)

    def _rule(self, noise_multiplier: float) -> DPSGD:
        sampled = self.sampling_probability, self.total_steps, self.expected_batch
        return DPSGD(self.clip, noise_multiplier, *sampled, self.physical_batch, self.clipping)


@dataclass(frozen=True)
class Tuned:
    """What was done.

    Attributes:
        taken: Steps, as they were really taken.
        delta: Delta at which their cost is stated.
        texts, truncated: Numbers of texts, and of those among them that were too long. Both are data: they stay with
            whoever has the texts.
    """

    taken: Taken
    delta: float
    texts: int
    truncated: int

    @property
    def certificate(self) -> PrivacyCertificate:
        """What the steps cost, for one text added or removed."""
        return self.taken.certificate(self.delta)

    @property
    def notes(self) -> list[str]:
        """What a reader must know of them."""
        return [] if self.taken.noise_multiplier else [NO_NOISE]
