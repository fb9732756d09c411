"""Pretrained transformers, loaded whole or not at all; nothing else in this folder imports the library.

A checkpoint may lack weights of its architecture; the library then draws them at random and goes on. A frozen
extractor must not: its features would differ from process to process under one fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import transformers
from torch import nn

from fedlab.errors import BadInput, reason
from fedlab.features.encoders import frozen, loading, torch_device


@lru_cache(maxsize=2)
def load_transformer(
    source: str, kind: str, device: str, *, fingerprint: str, revision: str | None = None
) -> tuple[Any, nn.Module]:
    """Load a frozen network and the tokenizer or image processor that feeds it; kept in this process.

    Args:
        source, revision: Folder, or hub id and its commit.
        kind: Kind of the data, 'text' or 'image': which transform, and which tower of a network of two.
        device: Device where the network runs.
        fingerprint: Fingerprint of what lies at the source: when that changes, it is loaded anew.

    Returns:
        transform, network

    Raises:
        BadInput: If the source cannot be read as such a model, or lacks weights.
    """
    options = {"revision": revision} if revision else {}
    feeds = "tokenizer" if kind == "text" else "preprocessor_config.json"
    with reading(source, f"an extractor of {kind} features", feeds):
        network, report = transformers.AutoModel.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, **options
        )
        if kind == "text":
            transform = transformers.AutoTokenizer.from_pretrained(source, **options)
        else:  # PIL's resizing: torchvision is not needed, and where it is its own would give other bits
            transform = transformers.AutoImageProcessor.from_pretrained(source, backend="pil", **options)
    refuse_incomplete(source, (name for name in report["missing_keys"] if "pooler" not in name))
    if kind == "text" and transform.pad_token is None:  # decoders are trained without padding; it is masked out
        transform.pad_token = transform.eos_token
    if getattr(network.config, "is_encoder_decoder", False):
        network = network.get_encoder()
    tower = getattr(network, "vision_model" if kind == "image" else "text_model", network)
    return transform, frozen(tower, torch_device(device))


@contextmanager
def reading(source: str, what: str, feeds: str = "tokenizer") -> Iterator[None]:
    """Load a checkpoint within the block: silently, and without a side effect on the global random stream.

    Args:
        source: Folder or hub id.
        what: Role that the checkpoint is to have, for people.
        feeds: Part that it needs beside weights and config.

    Raises:
        BadInput: It cannot be read as such.
    """
    try:
        with loading(), quiet():
            yield
    except (OSError, ValueError, RuntimeError) as error:
        raise BadInput(
            f"cannot load {source!r} as {what} ({reason(error)}): expected weights, config.json and a {feeds}"
        ) from error


def refuse_incomplete(source: str, missing: Iterable[str]) -> None:
    """Refuse a checkpoint that lacks weights: they would be drawn at random.

    Raises:
        BadInput: Naming the first of those that are missing.
    """
    if names := sorted(missing):
        raise BadInput(
            f"the checkpoint {source!r} lacks {len(names)} weights of its model (first {names[0]}): "
            "choose a complete checkpoint"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' loading bars and reports within the block, then restore them."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
