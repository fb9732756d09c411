"""Canonical batches: the one order and size in which an extractor sees its inputs.

A float product's last bits change with the shape of its batch. Exact mode promises equal statistics for every
partition, so features are computed before anything is partitioned: over the whole split, in batches that
depend on the inputs alone, never on clients or workers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from fedlab import checks
from fedlab.errors import BadInput

Progress = Callable[[int, int], None]
"""Called as progress(done, total) after every batch."""

_FITTING = {
    "tabular": "Identity",
    "text": "MiniLM or HuggingFace",
    "image": "EfficientNetLite0, HuggingFace or Identity",
}


def require_kind(backbone: str, accepted: frozenset[str], kind: str) -> None:
    """Refuse a dataset kind that the backbone cannot read.

    Raises:
        BadInput: Naming the backbone, what it reads, the kind it was given and the backbones that fit.
    """
    if kind not in accepted:
        reads = " and ".join(sorted(accepted))
        fitting = _FITTING.get(kind, f"nothing (known kinds are {', '.join(sorted(_FITTING))})")
        raise BadInput(f"backbone {backbone} reads {reads} data, not {kind}: for {kind} use {fitting}")


def kind_of(inputs: Any) -> str:
    """Tell 'tabular' (n, d), 'text' (a list of str) or 'image' (n, h, w, 3) uint8 by the inputs themselves.

    Raises:
        BadInput: If the inputs are none of the three; names the shape and type, or the first item that is no text.
    """
    if isinstance(inputs, np.ndarray):
        if inputs.ndim == 2:
            return "tabular"
        if inputs.ndim == 4 and inputs.shape[3] == 3 and inputs.dtype == np.uint8:
            return "image"
        raise BadInput(
            f"inputs of shape {inputs.shape} and type {inputs.dtype}: expected (n, d) numbers, or "
            "(n, h, w, 3) uint8 images; repeat a grey channel three times"
        )
    for index, text in enumerate(inputs):
        if not isinstance(text, str):
            raise BadInput(f"input {index} is {type(text).__name__}: a text dataset is a list of str")
    return "text"


def embed_in_batches(
    order: Int[np.ndarray, " n"],
    embed: Callable[[Int[np.ndarray, " b"]], Float32[np.ndarray, "b d"]],
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> Float32[np.ndarray, "n d"]:
    """Embed the inputs `order` names, a batch at a time, and return the rows in the inputs' own order.

    Args:
        order: Permutation of 0..n-1, (n,) int, n >= 1, that depends on the inputs alone.
        embed: Map from b indices to b rows.
        batch_size: Inputs per batch, at least 1; the last batch holds the rest.
        progress: Callback progress(done, n), after every batch.

    Returns:
        (n, d) float32

    Raises:
        BadInput: If batch_size is below 1.
    """
    checks.integer("batch_size", batch_size, least=1)
    n = len(order)
    rows: np.ndarray | None = None
    for start in range(0, n, batch_size):
        batch = order[start : start + batch_size]
        z = embed(batch)
        if rows is None:  # the width is known once the first batch is
            rows = np.empty((n, z.shape[1]), dtype=np.float32)
        rows[batch] = z
        if progress is not None:
            progress(start + len(batch), n)
    assert rows is not None, "an empty order has no width: embed a blank input"
    return rows
