"""Sums over the samples of one class: rows while they are few, and then the triangle of their product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedlab.stats.arithmetic.product import energy_of, gram_product, recoverable, stacked_grams
from fedlab.stats.arithmetic.triangle import add_triangle, flatten, symmetric


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

    def gram(self, exact: bool) -> Tensor:
        """Return G_y, (d, d)."""
        if self.rows is not None:
            return gram_product(self.rows, exact)
        assert self.triangle is not None
        return torch.from_numpy(symmetric(self.triangle.numpy(), len(self.total)))

    def as_triangle(self, exact: bool) -> Tensor:
        """Return the entries on and above the diagonal."""
        if self.triangle is not None:
            return self.triangle
        assert self.rows is not None
        return triangle_of(gram_product(self.rows, exact))

    def joined(self, other: OneClass, exact: bool) -> OneClass:
        """Return the sums over both's samples: rows while they are few, else the triangle."""
        count, total, d = self.count + other.count, self.total + other.total, len(self.total)
        if self.rows is not None and other.rows is not None:
            rows = torch.cat([self.rows, other.rows])
            if len(rows) <= d // 2 and keeps_rows(rows, d, exact):
                return OneClass(count, total, rows, None)
        parts = [one.rows for one in (self, other) if one.rows is not None]
        triangles = [one.triangle for one in (self, other) if one.triangle is not None]
        triangles += map(triangle_of, stacked_grams(parts, exact))
        triangle = torch.zeros_like(triangles[0])
        for part in triangles:
            add_triangle(triangle.numpy(), part.numpy())
        return OneClass(count, total, None, triangle)


def keeps_rows(rows: Tensor, d: int, exact: bool) -> bool:
    """Whether rows are fewer numbers than the triangle, and a sum could still be made of them."""
    return 2 * len(rows) <= d + 1 and (not exact or recoverable(len(rows), energy_of(rows)))


def triangle_of(gram: Tensor) -> Tensor:
    """Return the entries of a Gram matrix on and above its diagonal."""
    return torch.from_numpy(flatten(gram.cpu().numpy()))
