"""Many statistics of any kind to one, in the memory of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from fedlab.errors import BadInput
from fedlab.stats.arithmetic.union import check_fits
from fedlab.stats.class_counts import ClassCounts
from fedlab.stats.gram import GramStats
from fedlab.stats.gram_sum import GramSum
from fedlab.stats.moments import WithMoments
from fedlab.stats.noisy import NoisyGram
from fedlab.stats.per_class import PerClass, PerClassSum


class StatisticsTotal:
    """A running total of statistics of one kind.

    Args:
        kind: Kind of the statistics; None for that of the first.
    """

    def __init__(self, kind: type | None = None) -> None:
        self._kind = kind
        self._sum: Any = None

    def add(self, statistics: Any) -> None:
        """Add one client's statistics; on BadInput the total is as it was."""
        kind = type(statistics)
        if self._kind is not None and self._kind is not kind:
            names = f"{self._kind.__name__} with {kind.__name__}"
            raise BadInput(f"cannot combine {names}: every client must use the same method")
        running = _EMPTY[kind]() if self._sum is None else self._sum
        running.add(statistics)
        self._kind, self._sum = kind, running

    def result(self) -> Any:
        """Return the total so far; more may be added afterwards."""
        if self._sum is None:
            raise BadInput("there are no statistics to add: no client has answered")
        return self._sum.result()


T = TypeVar("T")


def total_of(parts: Iterable[T]) -> T:
    """Return the sum of statistics of one kind; of Gram matrices in O(d^2 + dc) memory, one product per d rows.

    Raises:
        BadInput: If there is nothing to add, or two parts do not fit each other.
    """
    total = StatisticsTotal()
    for part in parts:
        total.add(part)
    return total.result()


def plain_sums(statistics: GramStats | PerClass | WithMoments) -> GramStats:
    """Return the ridge statistics in statistics of any kind, every sample alike."""
    if isinstance(statistics, WithMoments):
        return statistics.sums
    return statistics.weighted() if isinstance(statistics, PerClass) else statistics


class _PlainSum:
    """Of what is small: one addition after the other."""

    def __init__(self) -> None:
        self._sum: Any = None

    def add(self, statistics: Any) -> None:
        self._sum = statistics if self._sum is None else self._sum + statistics

    def result(self) -> Any:
        return self._sum


class _WithMomentsSum:
    def __init__(self) -> None:
        self._sums, self._moments = GramSum(), _PlainSum()

    def add(self, statistics: WithMoments) -> None:
        if (moments := self._moments.result()) is not None:
            check_fits(moments, statistics.moments)
        self._sums.add(statistics.sums)
        self._moments.add(statistics.moments)

    def result(self) -> WithMoments:
        return WithMoments(self._sums.result(), self._moments.result())


_EMPTY = {
    GramStats: GramSum,
    PerClass: PerClassSum,
    ClassCounts: _PlainSum,
    WithMoments: _WithMomentsSum,
    NoisyGram: _PlainSum,
}
