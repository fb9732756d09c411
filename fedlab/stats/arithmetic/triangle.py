"""The upper triangle of a symmetric matrix, flat: what is kept, sent and noised of G.

(G_11, G_12, ..., G_1d, G_22, ..., G_dd)        d(d+1)/2 entries, row by row
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from fedlab.errors import BadInput
from fedlab.stats.arithmetic.product import BLOCK, WRAPS


def triangle_entries(d: int) -> int:
    """Return the number of entries on and above the diagonal."""
    return d * (d + 1) // 2


def flatten(matrix: np.ndarray) -> np.ndarray:
    """Return the entries on and above the diagonal, row by row: slices cost a tenth of index arrays."""
    return np.concatenate([row[i:] for i, row in enumerate(matrix)] or [matrix.reshape(-1)])


def unflatten(flat: np.ndarray, n: int, d: int, kind: type) -> np.ndarray:
    """Return the (n, d) matrix of these entries, zero below the diagonal."""
    matrix = np.zeros((n, d), kind)
    end = 0
    for i, row in enumerate(matrix):
        start, end = end, end + d - i
        row[i:] = flat[start:end]
    return matrix


def symmetric(flat: np.ndarray, d: int) -> np.ndarray:
    """Return the (d, d) matrix of these entries on and above its diagonal: int64, or float64."""
    matrix = unflatten(flat, d, d, np.float64 if flat.dtype.kind == "f" else np.int64)
    for start in range(0, d, BLOCK):  # a block is turned in the cache; a column would miss it with every entry
        end = start + BLOCK
        matrix[start:end, :start] = matrix[:start, start:end].T
        square = matrix[start:end, start:end]
        square += np.triu(square, 1).T
    return matrix


@lru_cache(maxsize=16)
def diagonal_of(d: int) -> np.ndarray:
    """Return where the diagonal is among the entries."""
    where = np.cumsum([0, *range(d, 1, -1)])
    where.setflags(write=False)
    return where


def add_triangle(total: np.ndarray, part: np.ndarray) -> None:
    """Add in place, refusing a sum of squares that would wrap around: no entry is larger than the largest of these."""
    if total.dtype.kind == "i":
        diagonal = diagonal_of((math.isqrt(8 * len(total) + 1) - 1) // 2)
        if (part[diagonal] > np.iinfo(np.int64).max - total[diagonal]).any():
            raise BadInput(WRAPS)
    total += part
