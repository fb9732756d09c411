"""One loss per text, which no other text of its batch can change.

    l_i = - 1/|M_i| sum_{t in M_i} log p(x_t | x_<t)        M_i: the targets of text i, without padding and its code

The mean is over a text's own targets. A mean over the targets of the batch, which `model(..., labels=).loss` is,
weighs a text by how long the others are: its gradient then moves with theirs before it is clipped, and no bound on
one text holds. Position ids are given for every text, for a layer that is shown one row for all of them hides from
Opacus how many there are.

Li et al., Large Language Models Can Be Strong Differentially Private Learners, ICLR 2022,
https://arxiv.org/abs/2110.05679. n texts of a batch, t tokens of the longest, v vocabulary, c classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.llm.backends.generation import padded
from fedlab.privacy.dpsgd.per_sample import Losses

IGNORED = -100
"""The target of a position that is none."""


class Example(NamedTuple):
    """A text as tokens: what it follows, and what is to be learned; or a class in place of the latter."""

    source: tuple[int, ...]
    target: tuple[int, ...] | int


@dataclass(frozen=True)
class Batch:
    """Texts padded to the longest of them.

    Attributes:
        tokens, mask: Tokens that the model reads, (n, t), and where they are text.
        targets: Targets: (n, t) of a causal model, where its tokens stand; (n, u) of a decoder; (n,) classes.
        decoder: Tokens that a decoder reads, (n, u); None where there is none.
    """

    tokens: Int64[Tensor, "n t"]
    mask: Int64[Tensor, "n t"]
    targets: Tensor
    decoder: Int64[Tensor, "n u"] | None = None

    @property
    def positions(self) -> Int64[Tensor, "n t"]:
        """The position of every token, for every text by itself."""
        n, t = self.tokens.shape
        return torch.arange(t, device=self.tokens.device).expand(n, t)


@dataclass(frozen=True)
class Examples:
    """Texts as samples of `fedlab.privacy.dpsgd.private_gradient`.

    Args:
        items: Texts as tokens, n of them.
        kind: Kind of model: a key of `LOSSES`.
        device: Device of the model.
        start: Token that a decoder reads first.
        code_too: Whether a causal model also learns to write the code.
        pad: Token that stands where no text is; what it is matters only to models that look for it.
    """

    items: Sequence[Example]
    kind: str = "causal"
    device: torch.device | str = "cpu"
    start: int = 0
    code_too: bool = False
    pad: int = 0

    def __post_init__(self) -> None:
        checks.choice("kind of model", self.kind, LOSSES)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: list[int]) -> Batch:
        chosen = [self.items[row] for row in rows]
        if self.kind == "class":
            labels = torch.tensor([item.target for item in chosen], device=self.device)
            tokens, mask = padded([item.source for item in chosen], self.pad, self.device)
            return Batch(tokens, mask, labels)
        pairs = [(item.source, item.target) for item in chosen if not isinstance(item.target, int)]
        if len(pairs) != len(chosen):
            raise BadInput(f"a {self.kind} model learns tokens, not a class: give each Example a target of tokens")
        if self.kind == "causal":
            tokens, mask = padded([source + target for source, target in pairs], self.pad, self.device)
            targets = tokens.masked_fill(mask == 0, IGNORED)
            for row, (source, _) in enumerate(pairs):
                targets[row, : 0 if self.code_too else len(source)] = IGNORED
            return Batch(tokens, mask, targets)
        tokens, mask = padded([source for source, _ in pairs], self.pad, self.device)
        decoder, _ = padded([(self.start, *target[:-1]) for _, target in pairs], 0, self.device)
        return Batch(tokens, mask, padded([target for _, target in pairs], IGNORED, self.device)[0], decoder)

    def batches(self, size: int, order: Sequence[int] | None = None) -> Iterator[tuple[list[int], Batch]]:
        """Yield the rows of `size` texts after another and these as a batch, in their order or another."""
        order = range(len(self)) if order is None else order
        for first in range(0, len(order), size):
            rows = [int(row) for row in order[first : first + size]]
            yield rows, self[rows]


def causal_losses(module: nn.Module, batch: Batch) -> Float[Tensor, " n"]:
    """Return the losses of texts under a decoder (GPT-2, Llama, Qwen2, Gemma 3)."""
    logits = module(
        input_ids=batch.tokens, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
    ).logits
    return own_means(logits[:, :-1], batch.targets[:, 1:])


def seq2seq_losses(module: nn.Module, batch: Batch) -> Float[Tensor, " n"]:
    """Return the losses of targets given their sources (T5)."""
    logits = module(
        input_ids=batch.tokens, attention_mask=batch.mask, decoder_input_ids=batch.decoder, use_cache=False
    ).logits
    return own_means(logits, batch.targets)


def class_losses(module: nn.Module, batch: Batch) -> Float[Tensor, " n"]:
    """Return the losses of classes (BERT and the like)."""
    logits = module(input_ids=batch.tokens, attention_mask=batch.mask, position_ids=batch.positions).logits
    return cross_entropy(_wide(logits), batch.targets, reduction="none")


LOSSES: dict[str, Losses] = {"causal": causal_losses, "seq2seq": seq2seq_losses, "class": class_losses}
"""The loss of each kind of model."""


def own_means(logits: Float[Tensor, "n t v"], targets: Int64[Tensor, "n t"]) -> Float[Tensor, " n"]:
    """Return each text's mean over its own targets; 0 for a text that has none."""
    each = cross_entropy(_wide(logits).flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORED)
    counts = (targets != IGNORED).sum(1)
    return each.view(targets.shape).sum(1) / counts.clamp(min=1)


def kind_of(model: nn.Module) -> str:
    """Return what a model of Hugging Face learns: a key of `LOSSES`."""
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore
    if getattr(base.config, "is_encoder_decoder", False):
        return "seq2seq"
    return "class" if "Classification" in type(base).__name__ else "causal"


def evaluate(model: nn.Module, examples: Examples, batch_size: int = 32) -> Float64[np.ndarray, " n"]:
    """Return the loss of every text, without gradients and without dropout.

    Args:
        model: Network, left in the mode it was in.
        examples: Texts, n of them, of the model's kind.
        batch_size: Texts that pass the model at once.
    """
    losses, training = np.zeros(len(examples)), model.training
    model.eval()
    try:
        with torch.no_grad():
            for rows, batch in examples.batches(batch_size):
                losses[rows] = LOSSES[examples.kind](model, batch).double().cpu().numpy()
    finally:
        model.train(training)
    return losses


def _wide(logits: Tensor) -> Tensor:
    """Return logits in which a sum over the vocabulary keeps its digits."""
    return logits if logits.dtype == torch.float64 else logits.float()
