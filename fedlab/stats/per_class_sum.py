"""Many statistics class by class to one, in the memory of one."""

from __future__ import annotations

import torch
from torch import Tensor

from fedlab.errors import BadInput
from fedlab.stats.arithmetic.product import stacked_grams
from fedlab.stats.arithmetic.triangle import add_triangle
from fedlab.stats.arithmetic.union import check_fits
from fedlab.stats.one_class import OneClass, keeps_rows, triangle_of
from fedlab.stats.per_class import PerClass, check_per_class


class PerClassSum:
    """A running total of `PerClass`: rows wait until they would be a triangle, which takes part in place."""

    def __init__(self) -> None:
        self._first: PerClass | None = None
        self._counts: dict[int, int] = {}
        self._totals: dict[int, Tensor] = {}
        self._waiting: dict[int, list[Tensor]] = {}
        self._triangles: dict[int, Tensor] = {}
        self._saturated = 0

    def add(self, stats: PerClass) -> None:
        """Add one client's statistics; on BadInput the total is as it was."""
        first = stats if self._first is None else self._first
        check_fits(first, stats)
        sizes = [self._counts.get(y, 0) + one.count for y, one in stats.classes.items()]
        sizes += [n for y, n in self._counts.items() if y not in stats.classes]
        check_per_class(sizes, first.num_features, first.memory)
        exact, d = stats.scale is not None, stats.num_features
        triangles = {}
        for y, one in stats.classes.items():  # first everything that may be refused
            if one.triangle is not None:
                triangles[y] = self._triangles.get(y, torch.zeros_like(one.triangle)).clone()
                add_triangle(triangles[y].numpy(), one.triangle.numpy())
        self._first = first
        for y, one in stats.classes.items():
            self._counts[y] = self._counts.get(y, 0) + one.count
            self._totals[y] = self._totals[y] + one.total if y in self._totals else one.total
            if one.rows is not None:
                self._waiting.setdefault(y, []).append(one.rows)
                if sum(map(len, self._waiting[y])) > (d if y in self._triangles else d // 2):
                    self._fold(y, exact)
        self._triangles |= triangles
        self._saturated += stats.saturated

    def result(self) -> PerClass:
        """Return the total so far; more may be added afterwards."""
        if self._first is None:
            raise BadInput("there are no statistics to add: no client has answered")
        first, exact = self._first, self._first.scale is not None
        classes = {}
        for y in sorted(self._counts):
            waiting = self._waiting.get(y)
            rows = torch.cat(waiting) if waiting and y not in self._triangles else None
            if rows is not None and not keeps_rows(rows, first.num_features, exact):
                rows = None
            if rows is None and waiting:
                self._fold(y, exact)
            triangle = None if rows is not None else self._triangles[y]
            classes[y] = OneClass(self._counts[y], self._totals[y], rows, triangle)
        d, c = first.num_features, first.num_classes
        return PerClass(d, c, classes, first.scale, self._saturated, first.memory)

    def _fold(self, y: int, exact: bool) -> None:
        for gram in stacked_grams(self._waiting.pop(y), exact):
            triangle = triangle_of(gram)
            if y in self._triangles:
                add_triangle(triangle.numpy(), self._triangles[y].numpy())
            self._triangles[y] = triangle
