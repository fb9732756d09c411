"""A text behind its control code, as tokens.

    begin, code, separator | text, end        what is before the bar is given, what is behind it is learned and written

An encoder with a decoder reads the code and writes the text; a decoder alone has both in one row.

Keskar et al., CTRL, 2019, https://arxiv.org/abs/1909.05858.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from fedlab.errors import BadInput
from fedlab.llm.tuning.losses import Example, Examples, kind_of

SEPARATOR = "\n"
"""What stands between a code and its text."""


def encode(tokenizer: Any, code: str, text: str, kind: str, room: int) -> tuple[Example, bool]:
    """Return a text behind its code as tokens, and whether it was cut.

    Code and text are tokenised apart, so that what is learned begins where writing does.

    Args:
        tokenizer: Tokenizer of Hugging Face.
        code, text: Texts of any kind.
        kind: Kind of model: 'causal' or 'seq2seq'.
        room: Tokens there may be: of code and text together, of each for a model that reads one and writes the other.

    Raises:
        BadInput: The code leaves no room for a text.
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


def refuse_unpaired(codes: Sequence[str], texts: Sequence[str]) -> None:
    """Refuse (BadInput) texts that do not stand behind one code each."""
    if len(codes) != len(texts):
        raise BadInput(f"{len(codes)} codes and {len(texts)} texts: every text stands behind one code")


def examples_of(
    model: nn.Module,
    tokenizer: Any,
    codes: Sequence[str],
    texts: Sequence[str],
    max_tokens: int,
    learn_codes: bool = False,
) -> tuple[Examples, int]:
    """Return texts behind their codes as what a model learns, and how many of them were cut.

    Args:
        model, tokenizer: Model of Hugging Face that writes, and its tokenizer.
        codes, texts: Codes and the texts behind them, n of each.
        max_tokens: Tokens of code, text and end together; the model's context is a limit too.
        learn_codes: Whether the code's tokens count in the loss of a causal model.

    Raises:
        BadInput: Codes and texts do not belong together, or a code leaves no room for a text.
    """
    refuse_unpaired(codes, texts)
    kind, room = kind_of(model), min(max_tokens, context_of(model))
    encoded = [encode(tokenizer, code, text, kind, room) for code, text in zip(codes, texts, strict=True)]
    start = getattr(model.config, "decoder_start_token_id", None) or 0
    device = next(model.parameters()).device
    return Examples([item for item, _ in encoded], kind, device, start, learn_codes), sum(cut for _, cut in encoded)


def context_of(model: nn.Module) -> int:
    """Return how many tokens a model can see; a model without such a limit has none here."""
    limit = getattr(model.config, "max_position_embeddings", None)
    return int(limit) if limit else 2**31


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
