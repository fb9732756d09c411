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

from fedlab.errors import BadInput
from fedlab.llm.tuning.adapters import Adapters
from fedlab.llm.tuning.control_codes import context_of, encode
from fedlab.llm.tuning.losses import LOSSES, Examples, kind_of
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

    Parameters
    ----------
    epsilon, delta
        What all steps together keep for one text, added or removed; epsilon infinite, or None, clips without noise.
    steps, epochs
        T, or T = ceil(epochs / q): one of the two.
    sampling_probability
        q in (0, 1]: every text is in a step's batch with this probability, by itself.
    expected_batch
        B > 0, by which sums of gradients are divided: q times a guess of the number of texts.
    clip
        C > 0.
    learning_rate
        Of AdamW without decay.
    max_tokens
        Code, text and end together; texts are cut there, or where the model's context ends.
    adapters
        What of the model is trained.
    clipping
        'ghost' or 'hooks': the same sums, to rounding.
    physical_batch
        Texts that pass the model at once: memory, and nothing else.
    noise_multiplier
        m; None calibrates it. 0 clips without noise.
    learn_codes
        Whether the code's tokens count in the loss of a causal model.

    Raises
    ------
    BadInput
        One of them is out of range.
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
            raise BadInput(
                f"steps={self.steps} and epochs={self.epochs}: give one of the two, as a public number"
            )
        if self.epochs is not None and not (math.isfinite(self.epochs) and self.epochs > 0):
            raise BadInput(f"epochs={self.epochs} must be a finite number > 0")
        if self.noiseless:
            check_budget(1.0, self.delta)
        else:
            check_budget(self.epsilon or 0.0, self.delta)
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise BadInput(f"learning_rate={self.learning_rate} must be a finite number > 0")
        if self.max_tokens < 3:
            raise BadInput(f"max_tokens={self.max_tokens} must be at least 3: a code, a text and an end")
        self._rule(
            self.noise_multiplier or 0.0
        )  # refuses a setting out of range here rather than at the first text

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

        Parameters
        ----------
        release_id
            `seeded_id` of all that the noise depends on, or `fresh_id`.
        label
            For people.
        clients
            Whose texts they are; None for everyone.

        Raises
        ------
        BadInput
            There is no noise, and no number that a ledger could count.
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

        Parameters
        ----------
        model, tokenizer
            Of Hugging Face: a decoder, or an encoder with one.
        codes, texts
            n of each. Without any, every step is noise alone.
        generator
            On the CPU, of adapters, batches, dropout and noise: `fedlab.privacy.dpsgd.private_gradient.generator_of`.
        secure
            See `fedlab.privacy.dpsgd.private_gradient.DPSGD.train`; for noise of the operating system.

        Returns
        -------
        model, tuned
            The model is not wrapped by Opacus and can write.

        Raises
        ------
        BadInput
            Codes and texts do not belong together, or the model cannot be clipped text by text.
        """
        if len(codes) != len(texts):
            raise BadInput(f"{len(codes)} codes and {len(texts)} texts: every text stands behind one code")
        kind = kind_of(model)
        if kind == "class":
            raise BadInput(
                f"{type(model).__name__} writes no texts: choose a model with a language-model head"
            )
        seeds = torch.randint(2**31, (2,), generator=generator).tolist()
        tuned = self.adapters.prepare(model, seeds[0])
        room = min(self.max_tokens, context_of(model))
        encoded = [encode(tokenizer, code, text, kind, room) for code, text in zip(codes, texts, strict=True)]
        device = next(tuned.parameters()).device
        start = getattr(tuned.config, "decoder_start_token_id", None) or 0
        examples = Examples([item for item, _ in encoded], kind, device, start, self.learn_codes)
        trained = [p for p in tuned.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=0.0)
        with seeded(seeds[1]):  # dropout
            taken = self._rule(self.multiplier).train(
                tuned, examples, LOSSES[kind], optimizer, generator, secure=secure
            )
        return tuned.eval(), Tuned(taken, self.delta, len(texts), sum(cut for _, cut in encoded))

    def _rule(self, noise_multiplier: float) -> DPSGD:
        return DPSGD(
            self.clip,
            noise_multiplier,
            self.sampling_probability,
            self.total_steps,
            self.expected_batch,
            self.physical_batch,
            self.clipping,
        )


@dataclass(frozen=True)
class Tuned:
    """What was done.

    Attributes
    ----------
    taken
        The steps, as they were really taken.
    delta
        At which their cost is stated.
    texts, truncated
        How many there were, and how many of them too long. Both are data: they stay with whoever has the texts.
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
