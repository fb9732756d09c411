"""The model that a client's generator begins from: as a config says it, loaded when it is first asked for.

A client that tunes a model of hundreds of millions of weights needs a machine for it; one that has none votes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Base(Protocol):
    """What a generator begins from."""

    def module_and_tokenizer(self) -> tuple[Any, Any]:
        """Return a language model of transformers and its tokenizer; whoever tunes it works on a copy."""
        ...


@dataclass(frozen=True)
class TinyBase:
    """Random weights over bytes, for trying out.

    Parameters
    ----------
    seed
        Of the weights.
    context
        Tokens of a text at most; a token is a byte.
    """

    seed: int = 0
    context: int = 256

    def module_and_tokenizer(self) -> tuple[Any, Any]:
        """Return the model and its tokenizer."""
        return _tiny(self)


@dataclass(frozen=True)
class PretrainedBase:
    """A causal language model of the Hugging Face hub, or of a local folder.

    Parameters
    ----------
    id
        A hub id or a folder.
    revision
        Branch, tag or commit of a hub id.
    device
        'cpu', 'cuda', ...: where it is tuned.
    """

    id: str
    revision: str | None = None
    device: str = "cpu"

    def module_and_tokenizer(self) -> tuple[Any, Any]:
        """Return the model, in float32 as clipping wants it, and its tokenizer.

        Raises
        ------
        BadInput
            It cannot be loaded.
        """
        return _pretrained(self)


@lru_cache(maxsize=2)  # all clients of a process begin from the same
def _tiny(base: TinyBase) -> tuple[Any, Any]:
    from fedlab.llm.tiny import tiny

    return tiny(seed=base.seed, context=base.context)


@lru_cache(maxsize=1)
def _pretrained(base: PretrainedBase) -> tuple[Any, Any]:
    from fedlab.llm.causal import load

    return load(base.id, revision=base.revision, adapter=None, device=base.device, dtype="float32")
