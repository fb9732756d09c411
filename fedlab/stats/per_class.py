"""Statistics of each class by itself, so that classes can be weighted after the samples are gone.

    G = sum_y w_y G_y,   C[:, y] = w_y sum of the rows of X_y        G_y = X_y'X_y,  w from the counts n_y

When a class returns in a stream its weight changes for the samples of earlier phases too: a sum over all
classes cannot be weighted anew, these can. They cost a matrix per class: the triangle of G_y, or the rows
themselves while they are fewer numbers (2 n_y <= d + 1), which is exact in either number system. What that
takes is known from the counts alone, and refused before it is taken. They are held in main memory.

Fang et al., AIR, 2024, https://arxiv.org/abs/2408.10349. d features, c classes, n_y samples of class y.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from fedlab.errors import BadInput
from fedlab.stats.arithmetic.memory import check_memory
from fedlab.stats.arithmetic.product import add_grams, stacked_grams
from fedlab.stats.arithmetic.triangle import add_triangle, triangle_entries
from fedlab.stats.arithmetic.union import check_fits, counts_without, saturated_without, sha256_of
from fedlab.stats.arithmetic.weighted_product import scaled, weighted_gram
from fedlab.stats.class_weights import ClassWeights
from fedlab.stats.gram import GramStats
from fedlab.stats.one_class import OneClass, dense, keeps_rows, triangle_of

REMEDY = (
    "use form=two_rounds (counts first, then sums that are weighted already: one matrix), a smaller width, or "
    "raise memory"
)


@dataclass(frozen=True, eq=False)
class PerClass:
    """Immutable additive statistics, class by class.

    Attributes:
        num_features, num_classes: Numbers of features d and of classes c.
        classes: Sums of the classes that have samples, by label.
        scale, saturated: Scale and clipped entries, as `GramStats` has them.
        memory: Largest number of bytes that a sum may hold; None for a share of what is available.
    """

    num_features: int
    num_classes: int
    classes: Mapping[int, OneClass] = field(default_factory=dict)
    scale: float | None = None
    saturated: int = 0
    memory: int | None = None

    # -- making ----------------------------------------------------------------------------------------------

    @classmethod
    def of_class(cls, stats: GramStats, label: int, num_classes: int, memory: int | None = None) -> PerClass:
        """Return the statistics of one class, from those of its samples over a single column."""
        d, classes = stats.num_features, {}
        if stats.count:
            rows = None if stats.rows is None else stats.rows.cpu()
            if rows is not None and not keeps_rows(rows, d, stats.scale is not None):
                rows = None
            triangle = triangle_of(stats.gram) if rows is None else None
            classes = {label: OneClass(stats.count, stats.cross[:, 0].cpu(), rows, triangle)}
        return cls(d, num_classes, classes, stats.scale, stats.saturated, memory)

    # -- reading ---------------------------------------------------------------------------------------------

    @cached_property
    def class_counts(self) -> Int64[Tensor, " c"]:
        """n_y, (c,)."""
        counts = torch.zeros(self.num_classes, dtype=torch.int64)
        for y, one in self.classes.items():
            counts[y] = one.count
        return counts

    @property
    def count(self) -> int:
        """Number of samples n."""
        return int(self.class_counts.sum())

    @property
    def num_bytes(self) -> int:
        """What the sums of all classes hold."""
        return sum(one.num_bytes for one in self.classes.values())

    @cached_property
    def sha256(self) -> str:
        """Digest of everything they hold; in exact mode it does not depend on the partition."""
        parts: list[np.ndarray | Tensor] = []
        for y, one in sorted(self.classes.items()):
            parts.append(np.frombuffer(repr((y, one.count)).encode(), np.uint8))
            parts += [one.total, one.as_triangle(self.scale is not None)]
        return sha256_of((self.num_features, self.num_classes, self.scale, self.saturated), parts)

    def one(self, label: int) -> GramStats:
        """Return the statistics of one class over a single column."""
        if label not in self.classes:
            return GramStats.zeros(self.num_features, 1, self.scale)
        one = self.classes[label]
        matrix = None if one.triangle is None else dense(one.triangle, self.num_features)
        return GramStats(one.total[:, None], torch.tensor([one.count]), self.scale, rows=one.rows, matrix=matrix)

    def weighted(self, weights: ClassWeights | None = None) -> GramStats:
        """Return the sum over the classes, each with its weight: what a head is solved from.

        Args:
            weights: Weight per class; None weights every sample alike, which is the very sum that `GramStats` would
                hold.

        Raises:
            BadInput: A class with samples has no weight.
        """
        if weights is not None:
            weights.check(self.class_counts)
            if weights.plain:
                weights = None
        exact, d = self.scale is not None, self.num_features
        kind = torch.int64 if exact else torch.float64
        unit = weights.unit if weights is not None and exact else 1
        factors = torch.ones(self.num_classes, dtype=kind) if weights is None else weights.factors(exact)
        cross = torch.zeros(d, self.num_classes, dtype=kind)
        flat = torch.zeros(triangle_entries(d), dtype=kind)
        waiting: list[Tensor] = []
        integers: list[tuple[Tensor, int]] = []
        for y, one in sorted(self.classes.items()):
            factor = factors[y].item()
            cross[:, y] = scaled(one.total, factor)
            if one.rows is not None and not (exact and factor != 1):
                waiting.append(one.rows * factor**0.5)
            elif one.rows is not None and bool((one.rows == one.rows.round()).all()):
                integers.append((one.rows, int(factor)))
            else:  # a factor from the wire makes integers only as a whole
                add_triangle(flat.numpy(), scaled(one.as_triangle(exact), factor).numpy())
        matrix = dense(flat, d)
        for gram in stacked_grams(waiting, exact):
            matrix = add_grams(matrix, gram)
        if integers:
            units = torch.cat([torch.full((len(rows),), factor) for rows, factor in integers])
            matrix = add_grams(matrix, weighted_gram(torch.cat([rows for rows, _ in integers]), units))
        mass = float((self.class_counts * factors).sum())
        weighting = None if weights is None else (unit, mass)
        counts = self.class_counts.clone()
        return GramStats(cross, counts, self.scale, self.saturated, matrix=matrix, weighting=weighting)

    def tempered(self, tau: float) -> GramStats:
        """Return the sum in which class y weighs n_y^-tau."""
        return self.weighted(ClassWeights.tempered(self.class_counts.tolist(), tau))

    # -- algebra ---------------------------------------------------------------------------------------------

    def __add__(self, other: PerClass) -> PerClass:
        total = PerClassSum()
        total.add(self)
        total.add(other)
        return total.result()

    def __sub__(self, other: PerClass) -> PerClass:
        check_fits(self, other)
        counts_without(self.class_counts, other.class_counts)
        classes = dict(self.classes)
        for y, gone in other.classes.items():
            left = self.one(y) - other.one(y)  # it refuses what was never part of the sum
            if left.count == 0:
                del classes[y]
                continue
            assert left.matrix is not None
            classes[y] = OneClass(classes[y].count - gone.count, left.cross[:, 0], None, triangle_of(left.matrix))
        return replace(self, classes=classes, saturated=saturated_without(self.saturated, other.saturated))


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
        first = self._first
        if first is None:
            raise BadInput("there are no statistics to add: no client has answered")
        exact = first.scale is not None
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
        return replace(first, classes=classes, saturated=self._saturated)

    def _fold(self, y: int, exact: bool) -> None:
        for gram in stacked_grams(self._waiting.pop(y), exact):
            triangle = triangle_of(gram)
            if y in self._triangles:
                add_triangle(triangle.numpy(), self._triangles[y].numpy())
            self._triangles[y] = triangle


def per_class_bytes(counts: Sequence[int], d: int) -> int:
    """Return what the sums of these classes hold: rows or a triangle each, and the sum of the rows."""
    return sum(8 * (min(n * d, triangle_entries(d)) + d) for n in counts if n)


def check_per_class(counts: Sequence[int], d: int, memory: int | None) -> None:
    """Refuse what would not fit, before it is taken."""
    need = per_class_bytes(counts, d)
    check_memory(need, f"the sums of {sum(map(bool, counts))} classes by {d} features, class by class,", REMEDY, memory)
