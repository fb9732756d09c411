"""Statistics of each class by itself, so that classes can be weighted after the samples are gone.

    G = sum_y w_y G_y,   C[:, y] = w_y sum of the rows of X_y        G_y = X_y'X_y,  w from the counts n_y

When a class returns in a stream its weight changes for the samples of earlier phases too: a sum over all
classes cannot be weighted anew, these can. They cost a matrix per class: the triangle of G_y, or the rows
themselves while they are fewer numbers (2 n_y <= d + 1), which is exact in either number system. What that
takes is known from the counts alone, and refused before it is taken. They are held in main memory.

Fang et al., AIR, 2024, https://arxiv.org/abs/2408.10349. d features, c classes, n_y samples of class y.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from fedlab.errors import BadInput
from fedlab.stats.arithmetic.memory import check_memory
from fedlab.stats.arithmetic.product import add_grams, add_into, energy_of, gram_product, recoverable
from fedlab.stats.class_weights import ClassWeights, scaled, weighted_gram
from fedlab.stats.gram import GramStats
from fedlab.stats.serialization.packing import flatten, triangle_entries, unflatten

REMEDY = (
    "use form=two_rounds (counts first, then sums that are weighted already: one matrix), a smaller width, or "
    "raise memory"
)


@dataclass(frozen=True, eq=False)
class OneClass:
    """Sums over the samples of one class.

    Attributes
    ----------
    count
        n_y > 0.
    total
        Sum of the rows, (d,): float64, or int64 in exact mode.
    rows
        (r, d) with R'R = G_y; or None.
    triangle
        Entries of G_y on and above the diagonal, row by row; or None.
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
        return dense(self.triangle, len(self.total))

    def as_triangle(self, exact: bool) -> Tensor:
        """Return the entries on and above the diagonal."""
        if self.triangle is not None:
            return self.triangle
        assert self.rows is not None
        return torch.from_numpy(flatten(gram_product(self.rows, exact).numpy()))


@dataclass(frozen=True, eq=False)
class PerClass:
    """Immutable additive statistics, class by class.

    Attributes
    ----------
    num_features, num_classes
        d and c.
    classes
        The classes that have samples.
    scale, saturated
        As `GramStats` has them.
    memory
        Largest number of bytes that a sum may hold; None for a share of what is available.
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
            triangle = None if rows is not None else torch.from_numpy(flatten(stats.gram.cpu().numpy()))
            classes = {label: OneClass(count, total, rows, triangle)}
        return cls(d, num_classes, classes, stats.scale, stats.saturated, memory)

    @classmethod
    def total(cls, parts: Iterable[PerClass]) -> PerClass:
        """Add many, in the memory of one.

        Raises
        ------
        BadInput
            There is nothing to add, two parts do not fit each other, or the sum would not fit into memory.
        """
        total = PerClassSum()
        for part in parts:
            total.add(part)
        return total.result()

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
        """Digest of everything that is said; in exact mode it does not depend on the partition."""
        said = (self.num_features, self.num_classes, self.scale, self.saturated)
        digest = hashlib.sha256(repr(said).encode())
        for y, one in sorted(self.classes.items()):
            digest.update(repr((y, one.count)).encode())
            digest.update(one.total.contiguous().numpy().tobytes())
            digest.update(one.as_triangle(self.scale is not None).numpy().tobytes())
        return digest.hexdigest()

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

        Parameters
        ----------
        weights
            One per class; None weights every sample alike, which is the very sum that `GramStats` would hold.

        Raises
        ------
        BadInput
            A class with samples has no weight.
        """
        if weights is not None:
            weights.check(self.class_counts)
            if weights.plain:
                weights = None
        exact, d = self.scale is not None, self.num_features
        kind = torch.int64 if exact else torch.float64
        unit = weights.unit if weights is not None and exact else 1
        factors = torch.ones(self.num_classes, dtype=kind) if weights is None else weights.factors(exact)
        cross, flat = (
            torch.zeros(d, self.num_classes, dtype=kind),
            torch.zeros(triangle_entries(d), dtype=kind),
        )
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
                _add_into(flat, scaled(one.as_triangle(exact), factor), d)
        matrix = dense(flat, d)
        for rows in _stacks(waiting, exact):
            matrix = add_grams(matrix, gram_product(rows, exact))
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
        return PerClass.total([self, other])

    def __sub__(self, other: PerClass) -> PerClass:
        self.check_fits(other)
        classes = dict(self.classes)
        for y, gone in other.classes.items():
            if gone.count > (mine := classes[y].count if y in classes else 0):
                raise BadInput(f"cannot remove {gone.count} samples of class {y} from {mine}")
            left = self.one(y) - other.one(y)  # it refuses what was never part of the sum
            if left.count == 0:
                del classes[y]
                continue
            assert left.matrix is not None
            triangle = torch.from_numpy(flatten(left.matrix.numpy()))
            classes[y] = OneClass(self.classes[y].count - gone.count, left.cross[:, 0], None, triangle)
        if other.saturated > self.saturated:
            raise BadInput(f"cannot remove {other.saturated} saturated entries from {self.saturated}")
        saturated = self.saturated - other.saturated
        return PerClass(self.num_features, self.num_classes, classes, self.scale, saturated, self.memory)

    def widen(self, num_classes: int) -> PerClass:
        """Return the same statistics over more classes."""
        if num_classes < self.num_classes:
            raise BadInput(
                f"cannot narrow {self.num_classes} classes to {num_classes}: classes are only added"
            )
        d = self.num_features
        return PerClass(d, num_classes, self.classes, self.scale, self.saturated, self.memory)

    def check_fits(self, other: PerClass) -> None:
        """Refuse statistics of other features, classes or units."""
        GramStats.zeros(self.num_features, self.num_classes, self.scale).check_fits(
            GramStats.zeros(other.num_features, other.num_classes, other.scale)
        )


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
        first.check_fits(stats)
        sizes = [self._counts.get(y, 0) + one.count for y, one in stats.classes.items()]
        sizes += [n for y, n in self._counts.items() if y not in stats.classes]
        check_per_class(sizes, first.num_features, first.memory)
        exact, d = stats.scale is not None, stats.num_features
        triangles = {}
        for y, one in stats.classes.items():  # first everything that may be refused
            if one.triangle is not None:
                triangles[y] = (
                    self._triangles[y].clone() if y in self._triangles else torch.zeros_like(one.triangle)
                )
                _add_into(triangles[y], one.triangle, d)
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
        for rows in _stacks(self._waiting.pop(y), exact):
            more = torch.from_numpy(flatten(gram_product(rows, exact).numpy()))
            if y in self._triangles:
                more += self._triangles[y]
            self._triangles[y] = more


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """How many samples of each class there are: what the first of two rounds adds.

    Attributes
    ----------
    class_counts
        n_y, (c,).
    """

    class_counts: Int64[Tensor, " c"]

    def __add__(self, other: ClassCounts) -> ClassCounts:
        if len(self.class_counts) != len(other.class_counts):
            raise BadInput(
                f"cannot combine counts of {len(self.class_counts)} classes with those of "
                f"{len(other.class_counts)}: every client must use the same classes"
            )
        return ClassCounts(self.class_counts + other.class_counts)

    def __sub__(self, other: ClassCounts) -> ClassCounts:
        left = self + ClassCounts(-other.class_counts)
        if bool((left.class_counts < 0).any()):
            raise BadInput(f"cannot remove {other.class_counts.tolist()} from {self.class_counts.tolist()}")
        return left


def per_class_bytes(counts: Sequence[int], d: int) -> int:
    """Return what the sums of these classes hold: rows or a triangle each, and the sum of the rows."""
    return sum(8 * (min(n * d, triangle_entries(d)) + d) for n in counts if n)


def check_per_class(counts: Sequence[int], d: int, memory: int | None) -> None:
    """Refuse what would not fit, before it is taken."""
    need = per_class_bytes(counts, d)
    check_memory(
        need, f"the sums of {sum(map(bool, counts))} classes by {d} features, class by class,", REMEDY, memory
    )


def keeps_rows(rows: Tensor, d: int, exact: bool) -> bool:
    """Whether rows are fewer numbers than the triangle, and a sum could still be made of them."""
    return 2 * len(rows) <= d + 1 and (not exact or recoverable(len(rows), energy_of(rows)))


def dense(flat: Tensor, d: int) -> Tensor:
    """Return the symmetric matrix of these entries on and above its diagonal."""
    array = flat.numpy()
    upper = unflatten(array, d, d, array.dtype.type)
    for i in range(d):  # slices: an index array of the triangle would be as large as the matrix
        upper[i + 1 :, i] = upper[i, i + 1 :]
    return torch.from_numpy(upper)


def _stacks(waiting: Sequence[Tensor], exact: bool) -> Iterator[Tensor]:
    """Stack rows as far as their product still gives integers back: factors are not integers themselves."""
    stack: list[Tensor] = []
    n, energy = 0, 0.0
    for rows in waiting:
        n, energy = n + len(rows), energy + energy_of(rows)
        if stack and (n > 2 * rows.shape[1] or (exact and not recoverable(n, energy))):
            yield torch.cat(stack)
            stack, n, energy = [], len(rows), energy_of(rows)
        stack.append(rows)
    if stack:
        yield torch.cat(stack)


def _add_into(total: Tensor, part: Tensor, d: int) -> None:
    """Add a triangle in place, refusing an int64 sum that would wrap around."""
    if total.dtype == torch.int64:
        diagonal = np.cumsum([0, *range(d, 1, -1)])
        if bool((part[diagonal] > torch.iinfo(torch.int64).max - total[diagonal]).any()):
            raise BadInput("the sum of exact statistics passes 2^63: lower bits, or add fewer samples")
    add_into(total, part)
