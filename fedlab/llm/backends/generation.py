"""What a network of Hugging Face writes behind tokens, each row up to its end and nothing of the model's own defaults.

Which law a token is drawn from, and from whose randomness, is said by the caller: by a processor of the logits that
draws for each row from a seed of its own (`causal.py`), or by transformers' own sampling from torch's generator
(`tuning/sampling.py`). Their draws differ, and with them the texts of one seed; this is all that they share.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def padded(rows: Sequence[Sequence[int]], fill: int, device: Any, side: str = "right") -> tuple[Tensor, Tensor]:
    """Return rows of tokens as wide as the longest, filled up at a side, and where they are a text's: (n, t) each."""
    tokens = [torch.tensor(row, dtype=torch.int64) for row in rows]
    filled = pad_sequence(tokens, batch_first=True, padding_value=fill, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True, padding_side=side)
    return filled.to(device), mask.to(device)


def generate(
    network: Any,
    tokens: Tensor,
    mask: Tensor,
    ends: Collection[int],
    padding: int | None,
    max_tokens: int,
    *,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    **settings: Any,
) -> list[list[int]]:
    """Return the tokens written behind each row (n, t), with its end where there is one.

    Args:
        network: Decoder, or encoder with a decoder, perhaps with adapters.
        tokens, mask: Prompts, padded on the left.
        ends: Tokens that end a text.
        padding: Token that fills up what ended early.
        max_tokens: Tokens written at most.
        logits_processor, stopping_criteria, settings: Further arguments of transformers' `generate` and of its
            `GenerationConfig`.
    """
    base = network.get_base_model() if hasattr(network, "get_base_model") else network
    # a config of its own: the model's defaults (other temperatures, penalties, ends) are not what was asked for
    config = type(base.generation_config)(
        max_new_tokens=max_tokens, eos_token_id=list(ends) or None, pad_token_id=padding, **settings
    )
    written = network.generate(
        input_ids=tokens,
        attention_mask=mask,
        generation_config=config,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
    )
    # a decoder alone repeats its prompt, one beside an encoder the token that it starts from
    rows = written[:, 1 if base.config.is_encoder_decoder else tokens.shape[1] :].tolist()
    return [next((row[: i + 1] for i, token in enumerate(row) if token in ends), row) for row in rows]
