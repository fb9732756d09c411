"""What the packed statistics of many clients weigh, without packing any.

    bytes = sum_k  headers + |classes_k| + |class counts_k| + |C_k| + min(|R_k|, |G_k|)

A worker that sums its clients sends one message for all of them; what each would have sent is still counted,
in one pass over the stacked rows. k clients, n samples together, d features, c classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from fedlab.stats.arithmetic.product import recoverable
from fedlab.stats.arithmetic.triangle import triangle_entries
from fedlab.stats.class_weights import ClassWeights
from fedlab.stats.serialization.packing import factor_entries, factor_is_smaller

HEADER = 128
"""Bytes that NumPy's format puts before the numbers of a flat array."""
ARRAYS = 6
"""How many `pack` makes: gram or factor is one."""


def packed_bytes(
    h: Float64[np.ndarray, "n d"],
    labels: Int64[np.ndarray, " n"],
    sizes: Sequence[int],
    c: int,
    exact: bool,
    weights: ClassWeights | None = None,
) -> int:
    """Return the bytes of what `pack` would make of each client's statistics, NumPy's headers included.

    Args:
        h: Features as they are summed (integers in exact mode), clients one after the other.
        labels: Classes of the rows.
        sizes: Rows per client, k of them; their sum is n.
        c: Number of classes.
        exact: Number mode: whether the sums are integers, sent as the narrowest that hold them.
        weights: Weights of the classes; None counts every sample once.
    """
    k, d = len(sizes), h.shape[1]
    factors = np.ones(c) if weights is None or weights.plain else weights.factors(exact).numpy()
    weighted = weights is not None and not weights.plain
    owner = np.repeat(np.arange(k), sizes)
    held, which = np.unique(owner * c + labels, return_inverse=True)  # (client, class) pairs that occur
    holder, kinds = held // c, held % c
    classes = np.bincount(holder, minlength=k)
    counts = np.bincount(which, minlength=len(held))
    width = np.full(k, 8)
    if exact:
        order = np.argsort(which, kind="stable")
        sums = np.add.reduceat(h[order], np.cumsum(counts) - counts) if len(h) else h
        width = _width(_largest(np.abs(sums).max(1, initial=0) * factors[kinds], holder, k))
    cross = classes * d * width
    names = classes * (_width(_largest(kinds, holder, k)) + _width(_largest(counts, holder, k)))
    ends = np.cumsum(sizes)
    energy = np.bincount(owner, np.einsum("nd,nd->n", h, h) * factors[labels], k).astype(np.float64)
    shape = 4 * 8 + 8
    total = int(cross.sum() + names.sum()) + k * (ARRAYS * HEADER + shape)
    if weighted:
        total += k * (HEADER + 2 * 8)
    for n, end, squares in zip(sizes, ends.tolist(), energy.tolist(), strict=True):
        if n <= d and factor_is_smaller(n, d) and (not exact or recoverable(n, squares)):
            total += 8 * factor_entries(n, d)
        else:  # no entry of G is larger than the largest of its diagonal
            diagonal = 0.0
            if exact and n:
                rows = slice(end - n, end)
                diagonal = (factors[labels[rows]] @ np.square(h[rows])).max()
            total += (int(_width(np.array([diagonal]))[0]) if exact else 8) * triangle_entries(d)
    return total


def _largest(values: np.ndarray, holder: np.ndarray, k: int) -> np.ndarray:
    largest = np.zeros(k)
    np.maximum.at(largest, holder, values)
    return largest


def _width(largest: np.ndarray) -> np.ndarray:
    """Return the bytes of the narrowest signed integers that hold these."""
    return 1 << np.searchsorted([2.0**7, 2.0**15, 2.0**31], largest, side="right")
