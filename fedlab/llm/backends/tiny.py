"""A language model that nobody trained: a GPT-2 of random weights over bytes, made from a seed and never fetched.

What it writes says nothing. It is there for whatever must run in a second: tests, and an experiment that shows
that every step works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.features.weights import fingerprint_of
from fedlab.llm.backends.transformers_model import LocalModel

if TYPE_CHECKING:
    from fedlab.llm.backends.causal import Causal

_SPECIAL = ("<pad>", "<s>", "</s>")


def tiny(
    texts: Sequence[str] = (), *, seed: int = 0, vocabulary: int = 320, width: int = 32, context: int = 1024
) -> tuple[Any, Any]:
    """Make a random GPT-2 and a byte-level tokenizer, less than a megabyte together.

    Args:
        texts: Texts from which the tokenizer learns pairs of bytes, up to `vocabulary`; without any it knows bytes
            alone.
        seed: Seed of the weights.
        vocabulary: Tokens there are at most; at least 259, all bytes and three special ones.
        width: Width of the two layers, a multiple of 4.
        context: Tokens of a text at most.

    Returns:
        transformers.GPT2LMHeadModel in evaluation mode, transformers.PreTrainedTokenizerFast

    Raises:
        BadInput: A number is out of its range.
    """
    checks.integer("vocabulary", vocabulary, least=256 + len(_SPECIAL), remedy="all bytes and special tokens")
    checks.integer("context", context, least=2)
    if checks.integer("width", width, least=4) % 4:
        raise BadInput(f"width={width} must be a multiple of 4, one for each head")
    import tokenizers
    import torch
    import transformers

    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    core.decoder = tokenizers.decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    pad, begin, end = _SPECIAL
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=pad, bos_token=begin, eos_token=end, padding_side="left"
    )
    config = transformers.GPT2Config(
        vocab_size=core.get_vocab_size(),
        n_embd=width,
        n_layer=2,
        n_head=4,
        n_positions=context,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.GPT2LMHeadModel(config).eval(), tokenizer


@dataclass
class Tiny(LocalModel):
    """The tiny model as one that can be asked.

    Args:
        seed: Seed of the weights.
        context: Tokens of a prompt and its text together; a token is a byte.
        batch: Prompts at once.
    """

    seed: int = 0
    context: int = 1024
    batch: int = 16

    def fingerprint(self) -> str:
        """Hash what it is made from."""
        return fingerprint_of("tiny", seed=self.seed, context=self.context)

    def load(self) -> Causal:
        """Return the model with its weights."""
        network, tokenizer = tiny(seed=self.seed, context=self.context)
        from fedlab.features.encoders import frozen, torch_device
        from fedlab.llm.backends.causal import Causal

        return Causal("the tiny model", frozen(network, torch_device("cpu")), tokenizer, self.batch, None)
