"""Ridge statistics as an algebra: a + b is the statistics of the union of the data, a - b of the difference.

    G = X'X (d x d)    C = X'Y (d x c)    n (per class)       W = (G + g I)^-1 C

Because sums do not care who added what, a federation that adds its clients' statistics and solves once has the
centralised solution, whatever the partition. With a `FixedPoint` the entries are integers and "the" becomes literal:
the same bits. Fewer than d samples are kept as rows (any R with R'R = G) until a sum needs the matrix.

He et al., AFL, CVPR 2025, https://arxiv.org/abs/2405.16240 (the absolute aggregation law equals this sum).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.stats.arithmetic.fixed_point import FixedPoint
from fedlab.stats.arithmetic.memory import check_memory
from fedlab.stats.arithmetic.product import add_grams, difference, energy_of, gram_product, recoverable, stacked_grams
from fedlab.stats.arithmetic.samples import check_features, check_one_hot
from fedlab.stats.arithmetic.solve import Solution, generalised_cross_validation, ridge_solve
from fedlab.stats.arithmetic.union import check_fits, counts_without, saturated_without, sha256_of
from fedlab.stats.arithmetic.weighted_product import weighted_gram
from fedlab.stats.class_weights import ClassWeights, combined


@dataclass(frozen=True, eq=False)
class GramStats:
    """Immutable additive statistics of n samples with d features and c classes.

    Build it with `from_batch` or `zeros`; combine with `+` and `-`, or many with `fedlab.stats.total_of`, which
    reduces a stream of batches in O(d^2 + dc) memory; read `gram`, `cross`, `count`.

    Attributes:
        cross: Cross term C = X'Y, (d, c): float64, or int64 in exact mode.
        class_counts: Samples per class, (c,).
        scale: Integer units per 1.0 of a feature in exact mode; None in float64.
        saturated: Feature entries that lay outside the public range (exact mode).
        weighting: Weighting; None where every sample counts once. Else the integer units per 1.0 of a weight (1 in
            float64) and the samples' total weight, in such units: G = X'PX, C = X'PY with P the weights on a
            diagonal.
    """

    cross: Tensor
    class_counts: Int64[Tensor, " c"]
    scale: float | None = None
    saturated: int = 0
    rows: Float64[Tensor, "r d"] | None = None
    matrix: Tensor | None = None
    weighting: tuple[int, float] | None = None

    # -- making ----------------------------------------------------------------------------------------------

    @classmethod
    def from_batch(cls, x: Tensor, y_onehot: Tensor, fixed: FixedPoint | None = None) -> GramStats:
        """Reduce samples to their statistics.

        Args:
            x: Features, (n, d). n = 0 is legal. With `fixed` they are clipped and rounded first.
            y_onehot: One-hot targets, (n, c).
            fixed: Fixed point that makes the statistics exact integers.

        Raises:
            BadInput: Shapes differ, a feature is NaN or infinite, or a target row is not one-hot.
        """
        check_features(x)
        check_one_hot(y_onehot, len(x))
        if fixed is None:
            # A copy: the statistics must not change when the caller's buffer does.
            return cls.from_integers(x.to(torch.float64, copy=True), y_onehot, scale=None)
        q, saturated = fixed.encode(x)
        return cls.from_integers(q, y_onehot, scale=fixed.scale, saturated=saturated)

    @classmethod
    def from_integers(
        cls,
        x: Float64[Tensor, "n d"],
        y_onehot: Tensor,
        scale: float | None,
        saturated: int = 0,
        weights: ClassWeights | None = None,
    ) -> GramStats:
        """Reduce features that are fixed-point integers already (float64 where scale is None), unchecked."""
        # float64 before the product: a float32 sum cannot be subtracted back to zero.
        y, exact = y_onehot.to(device=x.device, dtype=torch.float64), scale is not None
        cross, counts, rows, units, weighting = x.T @ y, y.sum(0).to(torch.int64), x, None, None
        if exact:
            cross = cross.to(torch.int64)
        if weights is not None and not weights.plain:
            factors = weights.factors(exact).to(x.device)
            weighting = (weights.unit if exact else 1, float((counts * factors).sum()))
            cross, per_sample = cross * factors, y @ factors.to(torch.float64)
            # Rows of sqrt(p) x have the weighted sum as their Gram matrix, up to rounding.
            rows, units = x * per_sample.sqrt()[:, None], per_sample.to(torch.int64) if exact else None
        if len(x) <= x.shape[1] and (units is None or recoverable(len(rows), energy_of(rows))):
            return cls(cross, counts, scale, saturated, rows=rows, weighting=weighting)
        matrix = gram_product(rows, exact) if units is None else weighted_gram(x, units)
        return cls(cross, counts, scale, saturated, matrix=matrix, weighting=weighting)

    @classmethod
    def zeros(cls, d: int, c: int, scale: float | None = None, device: torch.device | str = "cpu") -> GramStats:
        """Return the statistics of no data: the neutral element of `+`."""
        kind = torch.float64 if scale is None else torch.int64
        return cls(
            torch.zeros(d, c, dtype=kind, device=device),
            torch.zeros(c, dtype=torch.int64, device=device),
            scale,
            rows=torch.zeros(0, d, dtype=torch.float64, device=device),
        )

    # -- reading ---------------------------------------------------------------------------------------------

    @property
    def num_features(self) -> int:
        """Return d."""
        return self.cross.shape[0]

    @property
    def num_classes(self) -> int:
        """Return c."""
        return self.cross.shape[1]

    @cached_property
    def count(self) -> int:
        """Number of samples n."""
        return int(self.class_counts.sum())

    @property
    def weight_unit(self) -> int | None:
        """Integer units per 1.0 of a weight; None where samples are not weighted."""
        return None if self.weighting is None else self.weighting[0]

    @property
    def target_squares(self) -> float:
        """tr(Y'PY), the samples' total weight: n where they are not weighted."""
        return float(self.count) if self.weighting is None else self.weighting[1] / self.weighting[0]

    @cached_property
    def gram(self) -> Tensor:
        """G = X'X, (d, d): float64, or int64 in exact mode."""
        if self.matrix is not None:
            return self.matrix
        assert self.rows is not None
        return gram_product(self.rows, self.scale is not None)

    @cached_property
    def sha256(self) -> str:
        """Digest of everything the statistics hold; in exact mode it does not depend on the partition."""
        header = (self.num_features, self.num_classes, self.scale, self.saturated)
        # Row by row: an index array of the triangle would cost ten times as much as its digest.
        triangle = (row[i:] for i, row in enumerate(self.gram.cpu().numpy()))
        weighting = () if self.weighting is None else (self.weighting,)
        return sha256_of((*header, *weighting), [*triangle, self.cross, self.class_counts])

    # -- algebra ---------------------------------------------------------------------------------------------

    def __add__(self, other: GramStats) -> GramStats:
        self.check_fits(other)
        rows = matrix = None
        if self.rows is not None and other.rows is not None:
            rows = torch.cat([self.rows, other.rows])
            if len(rows) > self.num_features or (self.scale and not recoverable(len(rows), energy_of(rows))):
                rows = None
        if rows is None:
            matrix = add_grams(self.gram, other.gram)
        return GramStats(
            self.cross + other.cross,
            self.class_counts + other.class_counts,
            self.scale,
            self.saturated + other.saturated,
            rows=rows,
            matrix=matrix,
            weighting=combined(self.weighting, other.weighting, 1),
        )

    def __sub__(self, other: GramStats) -> GramStats:
        return self.without([other])

    def without(self, parts: Sequence[GramStats]) -> GramStats:
        """Return the statistics of what is left when all these are removed; each matrix is read once.

        Raises:
            BadInput: The parts do not fit, or what would be left is the sum of no samples: they were never part of
                it.
        """
        for part in parts:
            self.check_fits(part)
        gone_counts = sum((part.class_counts for part in parts), torch.zeros_like(self.class_counts))
        counts = counts_without(self.class_counts, gone_counts)
        saturated = saturated_without(self.saturated, sum(part.saturated for part in parts))
        cross = difference(self.cross, [part.cross for part in parts])
        grams, gone = _grams(parts), counts == 0
        matrix = difference(self.gram, grams)
        nobody = bool(gone.all())
        if self.scale is not None and (
            not _covers(self.gram, grams) or bool(cross[:, gone].any()) or (nobody and bool(matrix.any()))
        ):
            raise BadInput(
                f"cannot remove these {int(gone_counts.sum())} samples from {self.count}: what remains is not "
                "the sum of any samples, so they were never part of it"
            )
        # Without samples a sum is zero; in float64 the difference would leave rounding noise, which a solve inflates.
        cross[:, gone] = 0
        if nobody:
            matrix.zero_()
        weighting = self.weighting
        for part in parts:
            weighting = combined(weighting, part.weighting, -1)
        if weighting is not None and nobody:
            weighting = (weighting[0], 0.0)
        return GramStats(cross, counts, self.scale, saturated, matrix=matrix, weighting=weighting)

    def check_fits(self, other: GramStats) -> None:
        """Refuse statistics of other features, classes, units or weights."""
        check_fits(self, other)
        mine, theirs = self.weight_unit, other.weight_unit
        if mine != theirs:
            raise BadInput(
                f"cannot combine statistics whose weights have {mine or 'no'} units with those of "
                f"{theirs or 'no'} units: every client must weight by the same counts"
            )

    # -- solving ---------------------------------------------------------------------------------------------

    def solve(self, ridge: float | str = 0.0) -> Float64[Tensor, "d c"]:
        """Return W = (G + ridge I)^-1 C in feature units; `solution` tells more."""
        return self.solution(ridge).weight

    def solution(self, ridge: float | str = 0.0) -> Solution:
        """Solve, and say how well the system was posed.

        Args:
            ridge: Ridge g >= 0, or 'gcv' for generalised cross-validation. 0 on a singular system gives the minimum
                norm.
        """
        d = self.num_features
        check_memory(3 * 8 * d * d, f"solving for {d} features", "lower the expansion's width")
        if ridge == "gcv" and self.count == 0:
            raise BadInput("ridge='gcv' needs samples, but the statistics are empty: give a number")
        scale = 1.0 if self.scale is None else self.scale
        gram, cross = self.gram.to(torch.float64), self.cross.to(torch.float64)
        if self.weight_unit not in (None, 1):  # a power of two: dividing by it changes no bit of the head
            gram, cross = gram / self.weight_unit, cross / self.weight_unit
        if ridge == "gcv":
            ridge = generalised_cross_validation(gram, cross, self.count, self.target_squares) / scale**2
        g = checks.number("ridge", ridge, least=0, remedy="'gcv' chooses it from the statistics")
        # With q = scale x:  (X'X + g I)^-1 X'Y = scale (Q'Q + g scale^2 I)^-1 Q'Y.
        solved = ridge_solve(gram, cross, g * scale**2)
        return replace(solved, weight=solved.weight * scale, ridge=float(g))


def _grams(parts: Sequence[GramStats]) -> list[Tensor]:
    """Return matrices whose sum is that of the parts' Gram matrices: rows of many parts share one product."""
    dense = [part.matrix for part in parts if part.matrix is not None]
    rows = [part.rows for part in parts if part.rows is not None and len(part.rows)]
    return [*dense, reduce(add_grams, stacked_grams(rows, parts[0].scale is not None))] if rows else dense


def _covers(gram: Tensor, grams: Sequence[Tensor]) -> bool:
    """Whether sums of squares are left when all these are removed, one after the other: int64 cannot wrap."""
    left = gram.diagonal().clone()
    for part in grams:
        left -= part.diagonal()
        if bool((left < 0).any()):
            return False
    return True
