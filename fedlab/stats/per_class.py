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
from fedlab.stats.arithmetic.triangle import add_triangle, symmetric, triangle_entries
from fedlab.stats.arithmetic.union import check_fits, counts_without, saturated_without, sha256_of
from fedlab.stats.arithmetic.weighted_product import scaled, weighted_gram
from fedlab.stats.class_weights import ClassWeights
from fedlab.stats.gram import GramStats
from fedlab.stats.one_class import OneClass, keeps_rows, triangle_of

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
        d, count = stats.num_features, stats.count
        classes = {}
        if count:
            total = stats.cross[:, 0].cpu()
            exact = stats.scale is not None
            rows = None if stats.rows is None else stats.rows.cpu()
            if rows is not None and not keeps_rows(rows, d, exact):
                rows = None
            triangle = None if rows is not None else triangle_of(stats.gram)
            classes = {label: OneClass(count, total, rows, triangle)}
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
        exact = self.scale is not None
        if label not in self.classes:
            return GramStats.zeros(self.num_features, 1, self.scale)
        one = self.classes[label]
        matrix = one.gram(exact) if one.rows is None else None
        counts = torch.tensor([one.count])
        return GramStats(one.total[:, None], counts, self.scale, rows=one.rows, matrix=matrix)

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
        matrix = torch.from_numpy(symmetric(flat.numpy(), d))
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
        check_fits(self, other)
        counts = (self.class_counts + other.class_counts).tolist()
        check_per_class(counts, self.num_features, self.memory)
        classes, exact = dict(self.classes), self.scale is not None
        for y, more in other.classes.items():
            classes[y] = classes[y].joined(more, exact) if y in classes else more
        saturated = self.saturated + other.saturated
        return replace(self, classes=dict(sorted(classes.items())), saturated=saturated)

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

    def widen(self, num_classes: int) -> PerClass:
        """Return the same statistics over more classes."""
        if num_classes < self.num_classes:
            raise BadInput(f"cannot narrow {self.num_classes} classes to {num_classes}: classes are only added")
        return replace(self, num_classes=num_classes)


def per_class_bytes(counts: Sequence[int], d: int) -> int:
    """Return what the sums of these classes hold: rows or a triangle each, and the sum of the rows."""
    return sum(8 * (min(n * d, triangle_entries(d)) + d) for n in counts if n)


def check_per_class(counts: Sequence[int], d: int, memory: int | None) -> None:
    """Refuse what would not fit, before it is taken."""
    need = per_class_bytes(counts, d)
    check_memory(need, f"the sums of {sum(map(bool, counts))} classes by {d} features, class by class,", REMEDY, memory)
