"""The same statistics over a larger universe of classes: new classes are columns of zeros.

    over(S, columns, c)      class i of S becomes class columns[i] of c

Sums over different classes can be added once both are over the union; columns in one order (sorted labels)
give the same bits, whoever met which class first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from fedlab.analytic.dual_stream import DualStream
from fedlab.analytic.phases import Phases
from fedlab.errors import BadInput
from fedlab.stats.gram import GramStats
from fedlab.stats.moments import WithMoments
from fedlab.stats.per_class import PerClass


@singledispatch
def over(statistics: Any, columns: Sequence[int], num_classes: int) -> Any:
    """Return the statistics over `num_classes` classes.

    Args:
        statistics: Statistics of any kind that is additive, over len(columns) classes.
        columns: Column of each of its classes; all different.
        num_classes: Number of classes of the larger universe.

    Raises:
        BadInput: It is the smaller one.
    """
    raise TypeError(f"no rule for statistics of type {type(statistics).__name__}")


@over.register
def _(statistics: GramStats, columns: Sequence[int], num_classes: int) -> GramStats:
    cross = _spread(statistics.cross, columns, num_classes)
    counts = _spread(statistics.class_counts[None], columns, num_classes)[0]
    return replace(statistics, cross=cross, class_counts=counts)


@over.register
def _(statistics: DualStream, columns: Sequence[int], num_classes: int) -> DualStream:
    if statistics.total is None or statistics.compensation is None:
        return statistics
    seen = {column for column, was in zip(columns, statistics.seen, strict=True) if was}
    return replace(
        statistics,
        total=over(statistics.total, columns, num_classes),
        compensation=_spread(statistics.compensation, columns, num_classes),
        seen=tuple(column in seen for column in range(num_classes)),
        phases=tuple(over(phase, columns, num_classes) for phase in statistics.phases),
    )


@over.register
def _(statistics: Phases, columns: Sequence[int], num_classes: int) -> Phases:
    kept = statistics.kept
    return replace(
        statistics,
        stream=over(statistics.stream, columns, num_classes),
        last=over(statistics.last, columns, num_classes),
        kept=None if kept is None else tuple(over(phase, columns, num_classes) for phase in kept),
    )


@over.register
def _(statistics: PerClass, columns: Sequence[int], num_classes: int) -> PerClass:
    _check(columns, num_classes)
    classes = {columns[label]: one for label, one in statistics.classes.items()}
    return replace(statistics, num_classes=num_classes, classes=classes)


@over.register
def _(statistics: WithMoments, columns: Sequence[int], num_classes: int) -> WithMoments:
    moments = statistics.moments
    counts, first, second = (
        _spread(part.T, columns, num_classes).T.contiguous()
        for part in (moments.counts[:, None], moments.first, moments.second)
    )
    sums = over(statistics.sums, columns, num_classes)
    return WithMoments(sums, replace(moments, counts=counts[:, 0], first=first, second=second))


def _check(columns: Sequence[int], num_classes: int) -> None:
    if num_classes < len(columns):
        raise BadInput(f"cannot narrow {len(columns)} classes to {num_classes}: classes are only added")


def _spread(sums: Tensor, columns: Sequence[int], num_classes: int) -> Tensor:
    _check(columns, num_classes)
    wider = sums.new_zeros(len(sums), num_classes)
    wider[:, torch.tensor(list(columns), device=sums.device)] = sums
    return wider
