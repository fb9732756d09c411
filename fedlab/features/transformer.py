"""Pretrained transformers, loaded whole or not at all; nothing else in this folder imports the library.

A checkpoint may lack weights of its architecture; the library then draws them at random and goes on. A frozen
extractor must not: its features would differ from process to process under one fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import transformers
from torch import nn

from fedlab.errors import BadInput
from fedlab.features.encoders import frozen, loading, torch_device


@lru_cache(maxsize=2)
def load_transformer(
    source: str, kind: str, device: str, *, fingerprint: str, revision: str | None = None
) -> tuple[Any, nn.Module]:
    """Load a frozen network and the tokenizer or image processor that feeds it; kept in this process.

    Parameters
    ----------
    source, revision
        Folder, or hub id and its commit.
    kind
        Kind of the data, 'text' or 'image': which transform, and which tower of a network of two.
    device
        Device where the network runs.
    fingerprint
        Fingerprint of what lies at the source: when that changes, it is loaded anew.

    Returns
    -------
    transform, network

    Raises
    ------
    BadInput
        If the source cannot be read as such a model, or lacks weights.
    """
    options = {"revision": revision} if revision else {}
    try:
        with loading(), quiet():
            network, report = transformers.AutoModel.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True, **options
            )
            if kind == "text":
                transform = transformers.AutoTokenizer.from_pretrained(source, **options)
            else:  # PIL's resizing: torchvision is not needed, and where it is its own would give other bits
                transform = transformers.AutoImageProcessor.from_pretrained(source, backend="pil", **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(
            f"cannot load {source!r} as an extractor of {kind} features ({reason}): expected weights, "
            f"config.json and a {'tokenizer' if kind == 'text' else 'preprocessor_config.json'}"
        ) from error
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise BadInput(
            f"the checkpoint {source!r} lacks {len(missing)} weights of its model (first {missing[0]}): "
            "choose a complete checkpoint"
        )
    if (
        kind == "text" and transform.pad_token is None
    ):  # decoders are trained without padding; it is masked out
        transform.pad_token = transform.eos_token
    if getattr(network.config, "is_encoder_decoder", False):
        network = network.get_encoder()
    tower = getattr(network, "vision_model" if kind == "image" else "text_model", network)
    return transform, frozen(tower, torch_device(device))


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
