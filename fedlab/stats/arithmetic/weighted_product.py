"""X'PX of integers, P the samples' weights in whole units: int64, the same bits in every order.

n rows, d features.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from fedlab.errors import BadInput
from fedlab.stats.arithmetic.fixed_point import EXACT
from fedlab.stats.arithmetic.product import add_into, check_no_wrap, gram_product


def weighted_gram(x: Float64[Tensor, "n d"], units: Int64[Tensor, " n"]) -> Int64[Tensor, "d d"]:
    """Return X'PX of integers, in int64.

    Rows of like weight go together, as many as one float64 product can take exactly: the more alike the weights
    are, the fewer products. Where one weight alone is too large it multiplies the integer product.
    """
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.int64, device=x.device)
    largest = max(1.0, float(x.abs().max()) ** 2 if x.numel() else 1.0)
    order = units.argsort(stable=True)
    kinds, counts = units.unique(return_counts=True)  # rising
    for group in _groups(kinds.tolist(), counts.tolist(), EXACT / largest):
        size = sum(n for _, n in group)
        rows, order = order[:size], order[size:]
        if len(group) == 1:
            product = scaled(gram_product(x[rows], exact=True), group[0][0])
        else:
            part = x[rows]
            product = ((part * units[rows, None]).T @ part).to(torch.int64)
        check_no_wrap(total, product)
        add_into(total, product)
    return total


def _groups(kinds: list[int], counts: list[int], room: float) -> Iterator[list[tuple[int, int]]]:
    """Yield (weight, rows) together while rows times the largest weight, the last, stay below the room."""
    group: list[tuple[int, int]] = []
    for kind, n in zip(kinds, counts, strict=True):
        if group and (sum(m for _, m in group) + n) * kind >= room:
            yield group
            group = []
        group.append((kind, n))
    if group:
        yield group


def scaled(sums: Tensor, factor: int | float) -> Tensor:
    """Return sums times a weight, refusing a product of integers that would wrap around."""
    if factor == 1:
        return sums
    if sums.dtype == torch.int64:
        largest = int(sums.abs().max()) if sums.numel() else 0
        if largest * abs(factor) > torch.iinfo(torch.int64).max:
            raise BadInput("the weighted sum of exact statistics passes 2^63: lower bits, or lower tau")
    return sums * factor
