"""Texts written behind control codes.

    x_t ~ p(. | code, x_<t)^(1 / temperature)        over the top k tokens, of these the top p of probability

How often a code is asked for is a public choice: then the numbers of texts do not tell those of the classes.

Top-p: Holtzman et al., ICLR 2020, https://arxiv.org/abs/1904.09751.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedlab.errors import BadInput
from fedlab.llm.tuning.control_codes import context_of, encode
from fedlab.llm.tuning.losses import kind_of


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
    batch_size: int = 64,
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
        with seeded(seed), torch.inference_mode():
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
def seeded(seed: int) -> Iterator[None]:
    """Give torch's global generators a seed within the block, and their own state back."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
