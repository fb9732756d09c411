"""What holds for sums over any samples: who may be added to whom, how much may be taken away, what they hash to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from fedlab.errors import BadInput


@runtime_checkable
class Summed(Protocol):
    """Statistics of samples with d features and c classes, in units of a scale (None: float64)."""

    @property
    def num_features(self) -> int: ...  # noqa: D102

    @property
    def num_classes(self) -> int: ...  # noqa: D102

    @property
    def scale(self) -> float | None: ...  # noqa: D102


def check_fits(mine: Summed, theirs: Summed) -> None:
    """Refuse to combine statistics of other features, classes or units."""
    for what in ("features", "classes"):
        a, b = getattr(mine, f"num_{what}"), getattr(theirs, f"num_{what}")
        if a != b:
            raise BadInput(
                f"cannot combine statistics over {a} {what} with statistics over {b}: every client must use "
                f"the same {what}"
            )
    if mine.scale != theirs.scale:
        raise BadInput(
            f"cannot combine statistics of scale {mine.scale} with scale {theirs.scale}: every client must "
            "use the same mode, limit and bits"
        )


def counts_without(counts: Int64[Tensor, " c"], gone: Int64[Tensor, " c"]) -> Int64[Tensor, " c"]:
    """Return samples per class after a removal, refusing to remove more than there are."""
    left = counts - gone
    if bool((left < 0).any()):
        c = int(left.argmin())
        raise BadInput(
            f"cannot remove {int(gone[c])} samples of class {c} from {int(counts[c])}: these statistics were "
            "never part of the sum"
        )
    return left


def saturated_without(saturated: int, gone: int) -> int:
    """Return the saturated entries after a removal, refusing to remove more than there are."""
    if gone > saturated:
        raise BadInput(f"cannot remove {gone} saturated entries from {saturated}")
    return saturated - gone


def sha256_of(header: tuple[object, ...], parts: Iterable[np.ndarray | Tensor]) -> str:
    """Return the digest of a header's repr and the bytes of all numbers."""
    digest = hashlib.sha256(repr(header).encode())
    for part in parts:
        array = part if isinstance(part, np.ndarray) else part.cpu().contiguous().numpy()
        digest.update(array.tobytes())
    return digest.hexdigest()
