"""X'X as it must be summed: in float64, or as the integers it consists of.

    rows of integers     float64 products are exact while they stay below 2^53; chunks are summed in int64
    a factor R           R'R = X'X up to rounding far below 1/2, so rounding gives the integers back

n rows, d features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab.errors import BadInput
from fedlab.stats.arithmetic.fixed_point import EXACT

BLOCK = 64
"""Rows that are worked on at a time."""
WRAPS = "the sum of exact statistics passes 2^63: lower bits, or add fewer samples"
CORRUPTED = "exact statistics are not integers: the rows were corrupted or encoded with another scale"


def gram_product(x: Float64[Tensor, "n d"], exact: bool) -> Tensor:
    """Return X'X: float64; if exact, int64 from integers or from a factor that is `recoverable`.

    Raises:
        BadInput: The exact product is no matrix of integers, or passes 2^63.
    """
    if not exact:
        return _product(x)
    if _whole(x):  # integers may be cut anywhere
        return reduce(add_grams, (_integers(_product(chunk)) for chunk in _chunks(x)))
    product = _product(x)  # a factor R makes integers of R'R only as a whole
    rounded = product.round()
    if not float((product - rounded).abs().max()) <= 0.25:  # so that NaN fails
        raise BadInput(CORRUPTED)
    return _integers(rounded)


def _whole(x: Float64[Tensor, "n d"]) -> bool:
    # A part at a time stays in the cache: a copy of all would cost a tenth of the product.
    return all(bool((part == part.round()).all()) for part in x.split(256))


def _integers(product: Float64[Tensor, "d d"]) -> Tensor:
    # Beyond 2^53 every float64 is whole, and says nothing. Written so that NaN fails.
    if not float(product.diagonal().max()) < EXACT:
        raise BadInput(CORRUPTED)
    return product.to(torch.int64)


def add_grams(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b, refusing an int64 sum that would wrap around."""
    check_no_wrap(a, b)
    return a + b


def check_no_wrap(a: Tensor, b: Tensor) -> None:
    """Refuse to add Gram matrices whose int64 sum would wrap around."""
    # |G_ij| <= max_i G_ii: where no diagonal entry passes int64, no entry does.
    if a.dtype == torch.int64 and bool((b.diagonal() > torch.iinfo(torch.int64).max - a.diagonal()).any()):
        raise BadInput(WRAPS)


def add_into(total: Tensor, part: Tensor) -> None:
    """Add to the total in place."""
    if total.device.type == "cpu":
        # NumPy adds on one thread. torch would start all of them for every client, and on a shared machine
        # they wait for each other longer than the addition takes.
        np.add(total.numpy(), part.numpy(), out=total.numpy())
    else:
        total.add_(part)


def difference(total: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Return the total without the parts, each of which is read once."""
    left = total.clone()
    if total.device.type != "cpu":
        for part in parts:
            left.sub_(part)
        return left
    # On one thread, as in `add_into`; rows of what is left stay in the cache until all parts are taken from them.
    arrays = [part.numpy() for part in parts]
    for start in range(0, len(total), BLOCK):
        block = left.numpy()[start : start + BLOCK]
        for array in arrays:
            block -= array[start : start + BLOCK]
    return left


def stacked_grams(parts: Sequence[Tensor], exact: bool) -> Iterator[Tensor]:
    """Yield Gram matrices whose sum is that of all parts: one product per d to 2d rows, whatever the parts are.

    sum_k X_k'X_k = [X_1; X_2; ...]'[X_1; X_2; ...]. Rows are stacked as far as their product still gives integers
    back: factors are not integers themselves.
    """
    stack: list[Tensor] = []
    n, energy = 0, 0.0
    for rows in parts:
        n, energy = n + len(rows), energy + energy_of(rows)
        if stack and (n > 2 * rows.shape[1] or (exact and not recoverable(n, energy))):
            yield gram_product(torch.cat(stack), exact)
            stack, n, energy = [], len(rows), energy_of(rows)
        stack.append(rows)
    if stack:
        yield gram_product(torch.cat(stack), exact)


def energy_of(rows: Float64[Tensor, "n d"]) -> float:
    """max_j |x_j|^2 over the columns: the largest entry of X'X."""
    return float(rows.square().sum(0).max())


def recoverable(n: int, energy: float) -> bool:
    """Whether rounding R'R gives back the integers X'X, for any factor R of n rows of this energy."""
    # Householder QR and R'R err by about sqrt(n) eps max_j |x_j|^2; n in place of sqrt(n) and 2^-8 in place
    # of 1/2 leave room for the sums of d entries by which `unpack` checks a factor.
    return n * energy * torch.finfo(torch.float64).eps < 2.0**-8


def _chunks(x: Float64[Tensor, "n d"]) -> tuple[Tensor, ...]:
    largest = max(float(x.max()), -float(x.min())) ** 2 if x.numel() else 1.0
    return x.split(max(1, int(EXACT / 2 / max(largest, 1.0))))


def _product(x: Float64[Tensor, "n d"]) -> Float64[Tensor, "d d"]:
    if x.device.type != "cpu":
        return x.T @ x
    a = x.numpy()
    with np.errstate(over="ignore", invalid="ignore"):  # a solve refuses infinite sums and names the remedy
        return torch.from_numpy(a.T @ a)  # NumPy sees A'A and calls syrk: half the work of a general product
