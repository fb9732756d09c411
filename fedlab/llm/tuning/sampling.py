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

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.llm.backends.generation import generate
from fedlab.llm.tuning.control_codes import context_of, encode
from fedlab.llm.tuning.losses import kind_of


@dataclass(frozen=True)
class Written:
    """Texts that a generator wrote.

    Attributes:
        codes, texts: Codes and the texts behind them, n of each.
        dropped: Number of further texts, which had too few words.
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

    Args:
        model, tokenizer: Model that `PrivateGenerator.fit` returned, and the tokenizer it was given.
        codes: Codes, all different.
        number: Texts behind each: one number for all, or one for each code.
        seed: Seed of the draws: equal ones write equal texts on one device.
        max_tokens: Tokens of code and text together; the model's context is a limit too.
        min_words: Words of a text at least; shorter ones are dropped, and counted.
        temperature, top_k, top_p: Law of a token, as in `Sampling`; top_k=0 and top_p=1 draw from all of them.
        batch_size: Texts that are written at once; it changes what is drawn.

    Raises:
        BadInput: A code is given twice, or leaves no room for a text.
    """
    if len(set(codes)) != len(codes):
        raise BadInput(f"{len(codes)} codes, of which {len(set(codes))} differ: give each once, and a number")
    checks.integer("batch_size", batch_size, least=1)
    kind, device = kind_of(model), next(model.parameters()).device
    room = min(max_tokens, context_of(model))
    end = tokenizer.eos_token_id
    how = {
        "do_sample": True,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "bos_token_id": tokenizer.bos_token_id,
        "decoder_start_token_id": getattr(model.config, "decoder_start_token_id", None),
        # of no text that was learned
        "suppress_tokens": [token for token in tokenizer.all_special_ids if token != end] or None,
    }
    padding = end if end is not None else tokenizer.pad_token_id
    ends = () if end is None else (end,)
    written: list[tuple[str, str]] = []
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
                    mask = torch.ones_like(rows)
                    for ids in generate(model, rows, mask, ends, padding, left, **how):
                        ids = ids[:-1] if ids and ids[-1] in ends else ids
                        written.append((code, tokenizer.decode(ids, skip_special_tokens=True).strip()))
    finally:
        model.train(training)
    kept = [(code, text) for code, text in written if len(text.split()) >= min_words]
    return Written([code for code, _ in kept], [text for _, text in kept], len(written) - len(kept))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Give torch's global generators a seed within the block, and their own state back."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
