"""A dual stream whose last phase is still open: batches join it until the next phase begins.

    state = (stream of the closed phases, statistics of the last)        head = stream.add(last).solution()

Closing a phase is final unless the phases are kept: then samples of any phase can be removed, and two states
are added phase by phase, for every phase is a sum. The stream is `fedlab.analytic.dual_stream`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from jaxtyping import Int64
from torch import Tensor

from fedlab.analytic.dual_stream import DualStream
from fedlab.errors import BadInput
from fedlab.stats.gram import GramStats


@dataclass(frozen=True, eq=False)
class Phases:
    """The phases of one learner.

    Attributes:
        stream: State after the closed phases, without the last.
        last: Statistics of the last phase.
        kept: Statistics of the closed phases, or None where they are not kept.
        num_closed: Number of closed phases.
    """

    stream: DualStream
    last: GramStats
    kept: tuple[GramStats, ...] | None = None
    num_closed: int = 0

    @cached_property
    def closed(self) -> DualStream:
        """The stream with the last phase closed too."""
        return self.stream.add(self.last)

    @property
    def class_counts(self) -> Int64[Tensor, " c"]:
        """Samples per class, (c,)."""
        total = self.stream.total
        return self.last.class_counts if total is None else total.class_counts + self.last.class_counts

    def joined(self, more: GramStats) -> Phases:
        """Return the state with more samples in the last phase."""
        return replace(self, last=self.last + more)

    def followed(self, phase: GramStats) -> Phases:
        """Return the state with the last phase closed and another begun."""
        kept = None if self.kept is None else (*self.kept, self.last)
        return Phases(self.closed, phase, kept, self.num_closed + 1)

    def without(self, statistics: GramStats, phase: int) -> Phases:
        """Return the state as if these samples had never been in that phase, counted from 0.

        Raises:
            BadInput: There is no such phase, it is closed and not kept, or the samples were never part of it.
        """
        if not 0 <= phase <= self.num_closed:
            raise BadInput(f"phase {phase} lies outside 0..{self.num_closed}")
        if phase == self.num_closed:
            return replace(self, last=self.last - statistics)
        if self.kept is None:
            raise BadInput(
                f"phase {phase} is closed and was not kept, and later residues depend on what is to be "
                "forgotten: use keep_phases=True, or train anew without these samples"
            )
        left = [part - statistics if t == phase else part for t, part in enumerate(self.kept)]
        return self._again([*left, self.last])

    def __add__(self, other: Phases) -> Phases:
        self.check_fits(other)
        if self.num_closed == other.num_closed == 0:
            return replace(self, last=self.last + other.last)
        if self.kept is None or other.kept is None:
            raise BadInput(
                f"cannot merge streams of {self.num_closed + 1} and {other.num_closed + 1} phases that were "
                "not kept: the residue of a phase depends on everyone's samples; use keep_phases=True"
            )
        long, short = sorted(([*self.kept, self.last], [*other.kept, other.last]), key=len, reverse=True)
        short += [None] * (len(long) - len(short))
        return self._again([a if b is None else a + b for a, b in zip(long, short, strict=True)])

    def check_fits(self, other: Phases) -> None:
        """Refuse phases whose residues were taken differently."""
        for name in ("ratio", "ridge", "compensation_ridge"):
            a, b = getattr(self.stream, name), getattr(other.stream, name)
            if a != b:
                raise BadInput(f"the phases so far have {name}={a}, others {name}={b}: use one for all phases")

    def _again(self, phases: list[GramStats]) -> Phases:
        return Phases(self.stream.after(phases[:-1]), phases[-1], tuple(phases[:-1]), len(phases) - 1)
