"""Many statistics to one, in the memory of one.

    sum_k X_k'X_k = [X_1; X_2; ...]'[X_1; X_2; ...]        stacked d rows at a time

So a server that adds a thousand small clients does the work of one centralised Gram, whatever k is.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab.errors import BadInput
from fedlab.stats.arithmetic.product import add_into, check_no_wrap, energy_of, gram_product, recoverable
from fedlab.stats.class_weights import combined
from fedlab.stats.gram import GramStats


class GramSum:
    """A running total of `GramStats` in O(d^2 + dc) memory, however many are added.

    Small clients arrive as rows. They are stacked and multiplied once per d to 2d rows, for the sum of their
    products is the product of their stacked rows: the work is that of one centralised Gram.
    """

    def __init__(self) -> None:
        self._total: GramStats | None = None
        self._waiting: list[Tensor] = []
        self._num_waiting = 0
        self._energy = 0.0

    def add(self, stats: GramStats) -> None:
        """Add one client's statistics; on BadInput the total is as it was."""
        if self._total is not None:
            self._total.check_fits(stats)
        gram = None
        if stats.rows is None or (stats.scale is not None and not recoverable(len(stats.rows), energy_of(stats.rows))):
            gram = stats.gram
        if self._total is None:
            # The total owns its arrays: later clients are added in place, without a new matrix for each.
            empty = GramStats.zeros(stats.num_features, stats.num_classes, stats.scale, stats.cross.device)
            weighting = None if stats.weighting is None else (stats.weighting[0], 0.0)
            self._total = replace(empty, rows=None, weighting=weighting)
        if gram is not None:
            self._accumulate(gram)
        elif stats.rows is not None and len(stats.rows):
            self._wait(stats.rows)
        add_into(self._total.cross, stats.cross)
        add_into(self._total.class_counts, stats.class_counts)
        self._total = replace(
            self._total,
            saturated=self._total.saturated + stats.saturated,
            weighting=combined(self._total.weighting, stats.weighting, 1),
        )

    def result(self) -> GramStats:
        """Return the total so far; more may be added afterwards."""
        if self._total is None:
            raise BadInput("there are no statistics to add: no client has answered")
        if self._total.matrix is not None or self._num_waiting > self._total.num_features:
            self._fold()
        total = replace(self._total, cross=self._total.cross.clone(), class_counts=self._total.class_counts.clone())
        if total.matrix is not None:
            return replace(total, matrix=total.matrix.clone())
        none = torch.zeros(0, total.num_features, dtype=torch.float64, device=total.cross.device)
        return replace(total, rows=torch.cat([none, *self._waiting]))

    def _wait(self, rows: Float64[Tensor, "r d"]) -> None:
        n, energy = self._num_waiting + len(rows), energy_of(rows)
        exact = self._total is not None and self._total.scale is not None
        if n > 2 * rows.shape[1] or (exact and not recoverable(n, self._energy + energy)):
            self._fold()
        self._waiting.append(rows)
        self._num_waiting += len(rows)
        self._energy += energy

    def _fold(self) -> None:
        if self._waiting:
            assert self._total is not None
            self._accumulate(gram_product(torch.cat(self._waiting), self._total.scale is not None))
            self._waiting, self._num_waiting, self._energy = [], 0, 0.0

    def _accumulate(self, gram: Tensor) -> None:
        assert self._total is not None
        if self._total.matrix is None:
            self._total = replace(self._total, matrix=gram.clone())
        else:
            check_no_wrap(self._total.matrix, gram)
            add_into(self._total.matrix, gram)
