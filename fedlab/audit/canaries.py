"""Canaries: secrets nobody wrote, put among private texts to see whether a generator gives them away.

    exposure(s) = log2 (R + 1) - log2 rank(s)      rank 1: s is likelier than all of R others that were never there

A secret that left no trace has a rank that is uniform on 1 ... R + 1, so its exposure is above e bits with
probability 2^-e, 1.44 bits in the mean; one that is known by heart has log2 (R + 1). Exposure needs the model. What
an adversary sees are the uploads: whether a secret stands in them is counted as well.

(epsilon, delta) of one text speaks of canaries that were put in once; put in k times they are a group of k texts.

Carlini et al., The Secret Sharer, USENIX Security 2019, https://arxiv.org/abs/1802.08232. k canaries, R alternatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from torch import nn

from fedlab import checks
from fedlab.audit.perplexity import log_perplexities
from fedlab.errors import BadInput
from fedlab.llm.tuning.control_codes import refuse_unpaired


@dataclass(frozen=True)
class Canaries:
    """The format of canaries.

    Args:
        pattern: Text with {} where the secret stands.
        alphabet: Symbols of a secret.
        length: Number of symbols in a secret, each drawn by itself.
        between: String between two of them.

    Raises:
        BadInput: The pattern has not one place for a secret, or there is nothing to draw.

    Examples:
        >>> Canaries(length=3).draw(2, np.random.default_rng(0))
        ['the number of my account is 8 6 5', 'the number of my account is 2 3 0']
    """

    pattern: str = "the number of my account is {}"
    alphabet: tuple[str, ...] = field(default=tuple("0123456789"))
    length: int = 6
    between: str = " "

    def __post_init__(self) -> None:
        if self.pattern.count("{}") != 1:
            raise BadInput(f"pattern={self.pattern!r} needs one place {{}} for the secret")
        if self.length < 1 or len(set(self.alphabet)) < 2 or len(set(self.alphabet)) != len(self.alphabet):
            raise BadInput(
                f"length={self.length} of {len(self.alphabet)} symbols: a secret has at least one symbol, of at least "
                "two different ones"
            )

    @property
    def space(self) -> int:
        """How many secrets there are."""
        return len(self.alphabet) ** self.length

    def draw(self, number: int, rng: np.random.Generator) -> list[str]:
        """Return different canaries.

        Args:
            number: Number of canaries; draw inserted ones and alternatives together, so that they differ.
            rng: Random numbers of the secrets.

        Raises:
            BadInput: There are not so many.
        """
        if number > self.space:
            raise BadInput(f"{number} canaries of {self.space} secrets: make them longer than length={self.length}")
        secrets: dict[tuple[int, ...], None] = {}
        while len(secrets) < number:
            secrets[tuple(rng.integers(len(self.alphabet), size=self.length).tolist())] = None
        spelled = (self.between.join(self.alphabet[symbol] for symbol in symbols) for symbols in secrets)
        return [self.pattern.replace("{}", secret) for secret in spelled]

    def secret(self, canary: str) -> str:
        """Return what stands in a canary's place for the secret."""
        before, after = self.pattern.split("{}")
        if not (canary.startswith(before) and canary.endswith(after)):
            raise BadInput(f"{canary!r} is no canary of the pattern {self.pattern!r}")
        return canary[len(before) : len(canary) - len(after)]

    def appearances(self, canaries: Sequence[str], uploads: Sequence[str]) -> Int64[np.ndarray, " k"]:
        """Return in how many uploads each canary's secret stands; white space and case do not count.

        Args:
            canaries: Canaries, k of them.
            uploads: Texts that left the client.
        """
        plain = [_plain(text) for text in uploads]
        secrets = [_plain(self.secret(canary)) for canary in canaries]
        return np.array([sum(secret in text for text in plain) for secret in secrets], np.int64)


def insert(
    codes: Sequence[str], texts: Sequence[str], canaries: Sequence[str], code: str, times: int, rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Return codes and texts with every canary among them, at places of chance.

    Args:
        codes, texts: Codes and the texts behind them, n of each.
        canaries: Canaries that are put in.
        code: Code behind which they stand.
        times: Copies of each, >= 0.
        rng: Random numbers of the places.

    Raises:
        BadInput: Codes and texts do not belong together, or times is negative.
    """
    refuse_unpaired(codes, texts)
    checks.integer("times", times, least=0)
    pairs = [*zip(codes, texts, strict=True), *((code, canary) for canary in canaries for _ in range(times))]
    order = rng.permutation(len(pairs)).tolist()
    return [pairs[i][0] for i in order], [pairs[i][1] for i in order]


def exposures(
    model: nn.Module,
    tokenizer: Any,
    canaries: Sequence[str],
    alternatives: Sequence[str],
    code: str,
    max_tokens: int = 256,
    batch_size: int = 32,
) -> Float64[np.ndarray, " k"]:
    """Return the exposure of every canary, in bits; equals count against it.

    Args:
        model, tokenizer: Generator, and its tokenizer.
        canaries: Canaries, k of them, inserted or never inserted.
        alternatives: Texts of the same format, R of them, none of which was inserted.
        code: Code behind which they stand.
        max_tokens, batch_size: Limits: see `fedlab.audit.perplexity.log_perplexities`.

    Raises:
        BadInput: A canary is among the alternatives, or there are none.
    """
    both = set(canaries) & set(alternatives)
    if both or not alternatives:
        raise BadInput(
            f"{len(alternatives)} alternatives, {len(both)} of them canaries: draw both at once, so that they differ"
        )
    every = [*canaries, *alternatives]
    bits = log_perplexities(model, tokenizer, [code] * len(every), every, max_tokens, batch_size)
    own, others = bits[: len(canaries)], np.sort(bits[len(canaries) :])
    rank = 1 + np.searchsorted(others, own, side="right")  # an equal one might as well be the secret
    return np.log2(len(others) + 1) - np.log2(rank)


def _plain(text: str) -> str:
    return "".join(text.casefold().split())
