"""Sums over the samples of one class: rows while they are few, and then the triangle of their product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedlab.stats.arithmetic.product import energy_of, gram_product, recoverable
from fedlab.stats.arithmetic.triangle import flatten, symmetric


@dataclass(frozen=True, eq=False)
class OneClass:
    """Sums over the samples of one class.

    Attributes:
        count: Samples n_y > 0.
        total: Sum of the rows, (d,): float64, or int64 in exact mode.
        rows: Rows R, (r, d), with R'R = G_y; or None.
        triangle: Entries of G_y on and above the diagonal, row by row; or None.
    """

    count: int
    total: Tensor
    rows: Tensor | None
    triangle: Tensor | None

    @property
    def num_bytes(self) -> int:
        """What it holds."""
        parts = (self.total, self.rows, self.triangle)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def as_triangle(self, exact: bool) -> Tensor:
        """Return the entries on and above the diagonal."""
        if self.triangle is not None:
            return self.triangle
        assert self.rows is not None
        return triangle_of(gram_product(self.rows, exact))


def keeps_rows(rows: Tensor, d: int, exact: bool) -> bool:
    """Whether rows are fewer numbers than the triangle, and a sum could still be made of them."""
    return 2 * len(rows) <= d + 1 and (not exact or recoverable(len(rows), energy_of(rows)))


def triangle_of(gram: Tensor) -> Tensor:
    """Return the entries of a Gram matrix on and above its diagonal."""
    return torch.from_numpy(flatten(gram.cpu().numpy()))


def dense(triangle: Tensor, d: int) -> Tensor:
    """Return the Gram matrix, (d, d), of these entries."""
    return torch.from_numpy(symmetric(triangle.numpy(), d))
