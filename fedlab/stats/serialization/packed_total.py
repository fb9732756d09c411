"""Many packed statistics to one sum, without a matrix for each.

    sum_k G_k = symmetric(sum_k triangle_k)        triangles are added as they came, narrow and flat

Factors and statistics of other kinds are unpacked and added as they are. Everything is checked as `unpack` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fedlab.stats.arithmetic.product import add_grams
from fedlab.stats.arithmetic.triangle import add_triangle, symmetric
from fedlab.stats.gram import GramStats
from fedlab.stats.serialization.packing import unpack_sums, unpack_triangle
from fedlab.stats.serialization.wire import unpack
from fedlab.stats.total import StatisticsTotal


def unpack_total(parts: Iterable[Mapping[str, np.ndarray]]) -> Any:
    """Return the sum of what `pack` packed.

    Raises:
        BadInput: There is nothing to add, a part cannot be unpacked, or two do not fit each other.
    """
    total, triangle = StatisticsTotal(), None
    for arrays in parts:
        if "kind" in arrays or "gram" not in arrays:
            total.add(unpack(arrays))
            continue
        sums, _ = unpack_sums(arrays)
        flat = unpack_triangle(arrays, sums)
        total.add(sums)  # refuses what does not fit, before its triangle is added
        if triangle is None:
            triangle = flat.astype(np.float64 if flat.dtype.kind == "f" else np.int64)
        else:
            add_triangle(triangle, flat)
    result = total.result()
    if triangle is None:
        return result
    assert isinstance(result, GramStats)
    matrix = torch.from_numpy(symmetric(triangle, result.num_features))
    if result.matrix is not None or (result.rows is not None and len(result.rows)):
        matrix = add_grams(matrix, result.gram)
    return replace(result, rows=None, matrix=matrix)
