"""What a sample must be before it may enter a sum: finite features, one class.

A sum cannot be searched for the NaN that spoilt it, so everything is checked at the door.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab.errors import BadInput


def check_features(x: Tensor) -> None:
    """Refuse what is no (n, d) matrix of finite numbers."""
    if x.ndim != 2 or x.shape[1] == 0:
        raise BadInput(f"features have shape {tuple(x.shape)}: expected (n, d) with d >= 1")
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        bad = (~finite).nonzero()
        raise BadInput(
            f"features contain {len(bad)} NaN or infinite of {x.numel()} entries, the first in row "
            f"{int(bad[0, 0])}, column {int(bad[0, 1])}: clean or impute them before they are summed"
        )


def check_labels(labels: Tensor, num_classes: int, n: int | None = None) -> None:
    """Refuse what is no vector of n whole numbers in [0, num_classes)."""
    if labels.ndim != 1 or (n is not None and len(labels) != n):
        raise BadInput(f"labels have shape {tuple(labels.shape)}: expected ({'n' if n is None else n},)")
    if labels.is_floating_point() or labels.is_complex():
        raise BadInput(f"labels have type {labels.dtype}: expected integers in 0..{num_classes - 1}")
    smallest, largest = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if smallest < 0 or largest >= max(1, num_classes):
        outside = smallest if smallest < 0 else largest
        raise BadInput(f"label {outside} lies outside 0..{num_classes - 1}: raise num_classes or relabel")


def one_hot(labels: Tensor, num_classes: int) -> Float64[Tensor, "n c"]:
    """Return Y with Y[i, labels[i]] = 1.

    Raises:
        BadInput: A label is not a whole number in [0, num_classes).
    """
    check_labels(labels, num_classes)
    return torch.nn.functional.one_hot(labels.to(torch.int64), num_classes).to(torch.float64)


def check_one_hot(y: Tensor, n: int) -> None:
    """Refuse what is no (n, c) matrix with a single 1 in each row."""
    if y.ndim != 2 or len(y) != n or y.shape[1] == 0:
        raise BadInput(f"targets have shape {tuple(y.shape)}: expected ({n}, c), one-hot, with c >= 1")
    wrong = ((y != 0) & (y != 1)).any(1) | (y.sum(1) != 1)
    if bool(wrong.any()):
        raise BadInput(
            f"targets are not one-hot in {int(wrong.sum())} of {n} rows, the first {int(wrong.nonzero()[0])}"
        )
