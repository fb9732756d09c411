"""A private generator: a language model tuned by DP-SGD on texts behind control codes, and texts sampled from it.

    learn     p(text | code)       code = `domain | label`, one loss per text, clipped and noised: `privacy.dpsgd`
    write     x_t ~ p(. | code, x_<t)       over the top k tokens, of these the top p of probability

What is written is post-processing: once the steps are in the ledger, any number of texts costs nothing more. How
often a code is asked for is a public choice, so that the numbers of texts do not tell those of the classes.

All of `Generator` is public, the number of steps and the probability q of a text too: computed from the number of
texts they would tell it. How many texts were too long is data, and stays with whoever has the texts.

Yue et al., Synthetic Text Generation with Differential Privacy, ACL 2023, https://arxiv.org/abs/2210.14348;
Li et al., FDKT, 2024, https://arxiv.org/abs/2405.14212; top-p: Holtzman et al., ICLR 2020,
https://arxiv.org/abs/1904.09751.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from fedlab.errors import BadInput
from fedlab.llm.adapters import Adapters
from fedlab.llm.objectives import LOSSES, Example, Examples, kind_of
from fedlab.privacy.calibration import Certificate, calibrate, certify
from fedlab.privacy.dpsgd import DPSGD, Taken
from fedlab.privacy.gaussian import check_promise
from fedlab.privacy.release import Release

SEPARATOR = "\n"
"""What stands between a code and its text."""
NO_NOISE = (
    "no noise was added (epsilon infinite): gradients were clipped, and the texts that are written promise nothing "
    "about those that were learned"
)


@dataclass(frozen=True)
class Generator:
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
    physical_batch: int = 16
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
            check_promise(1.0, self.delta)
        else:
            check_promise(self.epsilon or 0.0, self.delta)
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

    def certificate(self) -> Certificate:
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
            On the CPU, of adapters, batches, dropout and noise: see `fedlab.privacy.dpsgd.generator_of`.
        secure
            See `fedlab.privacy.dpsgd.DPSGD.train`; for noise of the operating system.

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
        with _seeded(seeds[1]):  # dropout
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
    def certificate(self) -> Certificate:
        """What the steps cost, for one text added or removed."""
        return self.taken.certificate(self.delta)

    @property
    def notes(self) -> list[str]:
        """What a reader must know of them."""
        return [] if self.taken.noise_multiplier else [NO_NOISE]


@dataclass(frozen=True)
class Written:
    """Texts that a generator wrote.

    Attributes
    ----------
    codes, texts
        n of each.
    dropped
        How many more were written and had too few words.
    """

    codes: list[str]
    texts: list[str]
    dropped: int


def sample(
    model: nn.Module,
    tokenizer: Any,
    codes: Sequence[str],
    number: int | Mapping[str, int],
    seed: int,
    *,
    max_tokens: int = 256,
    min_words: int = 10,
    temperature: float = 1.0,
    top_k: int = 50,
    top_p: float = 0.9,
    batch_size: int = 32,
) -> Written:
    """Write texts behind codes.

    Parameters
    ----------
    model, tokenizer
        As `Generator.fit` returned and was given them.
    codes
        Different ones.
    number
        Texts behind each: one number for all, or one for each code.
    seed
        Equal seeds write equal texts on one device.
    max_tokens
        Code and text together; the model's context is a limit too.
    min_words
        Shorter texts are dropped, and counted.
    temperature, top_k, top_p
        How a token is drawn; top_k=0 and top_p=1 draw from all of them.
    batch_size
        Texts that are written at once; it changes what is drawn.

    Raises
    ------
    BadInput
        A code is given twice, or leaves no room for a text.
    """
    if len(set(codes)) != len(codes):
        raise BadInput(f"{len(codes)} codes, of which {len(set(codes))} differ: give each once, and a number")
    if batch_size < 1:
        raise BadInput(f"batch_size={batch_size} must be at least 1")
    kind, device = kind_of(model), next(model.parameters()).device
    room = min(max_tokens, context_of(model))
    found, kept, dropped = [], [], 0
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    training = model.training
    model.eval()
    try:
        with _seeded(seed), torch.inference_mode():
            for code in codes:
                wanted = number if isinstance(number, int) else number[code]
                prompt, _ = encode(tokenizer, code, "", kind, room)
                tokens = torch.tensor([prompt.source], device=device)
                left = room - (len(prompt.source) if kind == "causal" else 0)
                for first in range(0, wanted, batch_size):
                    rows = tokens.expand(min(batch_size, wanted - first), -1)
                    for written in _write(model, tokenizer, rows, left, kind, settings):
                        text = tokenizer.decode(written, skip_special_tokens=True).strip()
                        if len(text.split()) < min_words:
                            dropped += 1
                        else:
                            found.append(code)
                            kept.append(text)
    finally:
        model.train(training)
    return Written(found, kept, dropped)


def encode(tokenizer: Any, code: str, text: str, kind: str, room: int) -> tuple[Example, bool]:
    """Return a text behind its code as tokens, and whether it was cut.

    Code and text are tokenised apart, so that what is learned begins where writing does.

    Parameters
    ----------
    tokenizer
        Of Hugging Face.
    code, text
        Any texts.
    kind
        'causal' or 'seq2seq'.
    room
        Tokens there may be: of code and text together, of each for a model that reads one and writes the other.

    Raises
    ------
    BadInput
        The code leaves no room for a text.
    """
    ids = _ids(tokenizer, code + SEPARATOR)
    end = (tokenizer.eos_token_id,) if tokenizer.eos_token_id is not None else ()
    if kind == "causal":
        begin = (tokenizer.bos_token_id,) if tokenizer.bos_token_id is not None else ()
        source = begin + ids
        left = room - len(source)
    else:
        source = ids + end
        left = room if len(source) <= room else 0
    if left < 2 or not source:
        raise BadInput(
            f"code {code!r} is {len(source)} tokens of {room}: it leaves no room for a text; shorten it, or raise "
            "max_tokens up to the model's context"
        )
    target = _ids(tokenizer, text) + end
    return Example(source, target[:left]), len(target) > left


def context_of(model: nn.Module) -> int:
    """Return how many tokens a model can see; a model without such a limit has none here."""
    limit = getattr(model.config, "max_position_embeddings", None)
    return int(limit) if limit else 2**31


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _write(
    model: Any, tokenizer: Any, rows: torch.Tensor, left: int, kind: str, settings: Mapping[str, float]
) -> Iterator[list[int]]:
    """Yield the tokens written behind equal prompts, up to the end of each."""
    end = tokenizer.eos_token_id
    pad = end if end is not None else tokenizer.pad_token_id  # what follows an end is cut off below
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    others = [token for token in tokenizer.all_special_ids if token != end]  # of no text that was learned
    # The model's own defaults (other temperatures, other ends) are not what was asked for.
    plain = type(base.generation_config)(
        do_sample=True,
        max_new_tokens=left,
        eos_token_id=end,
        pad_token_id=pad,
        bos_token_id=tokenizer.bos_token_id,
        decoder_start_token_id=getattr(base.config, "decoder_start_token_id", None),
        suppress_tokens=others or None,
        **settings,
    )
    found = model.generate(input_ids=rows, attention_mask=torch.ones_like(rows), generation_config=plain)
    for row in found[:, rows.shape[1] if kind == "causal" else 1 :].tolist():
        yield row[: row.index(end)] if end in row else row


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Give torch's global generators a seed within the block, and their own state back."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
