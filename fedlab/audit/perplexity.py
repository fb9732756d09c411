"""What a tuned language model betrays of a text by how likely it finds it.

    score(x) = - l(x)                 the loss: texts that were learned have a small one
    score(x) = l_0(x) - l(x)          against a reference, which knows which texts are easy anyhow

The reference is the model before it was tuned, which is public. Scores of texts that were learned and of others of
the same kind are judged by `success.distinguish`; `success.advantage_cap` is what (epsilon, delta) allows.

Yeom et al., CSF 2018, https://arxiv.org/abs/1709.01604; with a reference: Mireshghallah et al., EMNLP 2022,
https://arxiv.org/abs/2203.03929. n texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from torch import nn

from fedlab.llm.tuning.control_codes import examples_of
from fedlab.llm.tuning.losses import evaluate


def log_perplexities(
    model: nn.Module,
    tokenizer: Any,
    codes: Sequence[str],
    texts: Sequence[str],
    max_tokens: int = 256,
    batch_size: int = 32,
) -> Float64[np.ndarray, " n"]:
    """Return - log2 p(text | code) of every text, in bits, over all its tokens and its end.

    Args:
        model, tokenizer: Generator of `fedlab.llm.tuning.private_generator`, and its tokenizer.
        codes, texts: Codes and the texts behind them, n of each.
        max_tokens: Tokens at which longer texts are cut, as the generator was tuned.
        batch_size: Texts that pass the model at once.

    Raises:
        BadInput: Codes and texts do not belong together.
    """
    examples, _ = examples_of(model, tokenizer, codes, texts, max_tokens)
    lengths = np.array([len(item.target) for item in examples.items if not isinstance(item.target, int)], float)
    return evaluate(model, examples, batch_size) * lengths / np.log(2)


def membership_scores(
    model: nn.Module,
    tokenizer: Any,
    codes: Sequence[str],
    texts: Sequence[str],
    reference: nn.Module | None = None,
    max_tokens: int = 256,
    batch_size: int = 32,
) -> Float64[np.ndarray, " n"]:
    """Return scores that are higher where the model learned a text; parameters as for `log_perplexities`.

    Args:
        reference: Model before it was tuned; None takes the loss alone.
    """
    examples, _ = examples_of(model, tokenizer, codes, texts, max_tokens)
    scores = -evaluate(model, examples, batch_size)
    return scores if reference is None else scores + evaluate(reference, examples, batch_size)
