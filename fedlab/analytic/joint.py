"""The joint solution over a stream of phases: the sum of all of them, solved when asked.

    W(t) = (sum_{s<=t} G_s + g I)^-1 sum_{s<=t} C_s

Whatever the phases are, and in whatever order they come, it is ridge regression on everything seen so far;
the recursions of the literature compute the same with an inverse that they carry along.

Zhuang et al., ACIL, NeurIPS 2022, https://arxiv.org/abs/2205.14922 (recursive form). d features, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from fedlab.errors import BadInput
from fedlab.stats.arithmetic.solve import Solution
from fedlab.stats.gram import GramStats


@dataclass(frozen=True, eq=False)
class Joint:
    """What is left of the phases so far: their sum.

    Args:
        ridge: Ridge g >= 0, or 'gcv'.
        total: Statistics of all phases together; None before the first.
    """

    ridge: float | str = 0.1
    total: Any = None

    def add(self, phase: Any) -> Joint:
        """Return the state after one more phase; one without samples changes nothing.

        Raises:
            BadInput: The statistics do not fit those before.
        """
        return replace(self, total=phase if self.total is None else self.total + phase)

    def solution(self) -> Solution:
        """Return the head, (d, c), and how well its system was posed.

        Raises:
            BadInput: There is no phase yet.
        """
        if self.total is None:
            raise BadInput("there is no phase yet: nothing to solve")
        return self.sums().solution(self.ridge)

    def sums(self) -> GramStats:
        """Return what the head is solved from."""
        return self.total
