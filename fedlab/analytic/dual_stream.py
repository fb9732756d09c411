"""A main and a compensation head from the sums of each phase: the exact single pass over a stream of phases.

    W_M(t)   = (G_M + g I)^-1 C_M                                 over the phases 0..t
    K        = sum_t [C_C,t - H_t W_M(t)] restricted to the classes new in phase t
    W_C      = (G_C + g_C I)^-1 K
    scores   = h_M W_M + r h_C W_C                                = [h_M, h_C] [W_M; r W_C]

K is the cross term of the compensation stream with the residue that the main head leaves on each phase, so
the two passes that define it are one: X_C,t'(Y_t - X_M,t W_M(t)) = C_C,t - H_t W_M(t). Within a phase neither
order nor batches nor clients matter; between phases the compensation head depends on their order, the main
head does not. One `add` is one phase. A class is new in the first phase that has a sample of it; one that
returns is not new; a phase without samples changes nothing.

Zhuang et al., DS-AL, AAAI 2024, https://arxiv.org/abs/2403.17503. w projections, h = [h_M, h_C] (n, 2w),
H_t = h_C,t'h_M,t, c classes, r the compensation ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.stats.arithmetic.solve import Solution, one_thread, ridge_solve
from fedlab.stats.gram import GramStats


@dataclass(frozen=True, eq=False)
class DualStream:
    """What is left of the phases so far.

    Args:
        ratio: Weight r >= 0 of the compensation stream; 0 is ACIL.
        ridge: Ridge g of the main stream.
        compensation_ridge: Ridge g_C of the compensation stream.
        keep_phases: Memory of each phase's statistics (2w x 2w numbers per phase), so that a client can be forgotten
            later and the main ridge searched.

    Attributes:
        total: Statistics of all phases together; None before the first.
        compensation: Cross term K of the compensation stream, (w, c), in units of the features.
        seen: Classes that have had a sample, as c truth values.
        phases: Statistics of each phase where they are kept.
        num_phases: Number of phases with samples that were added.
    """

    ratio: float = 0.6
    ridge: float = 0.1
    compensation_ridge: float = 0.1
    keep_phases: bool = False
    total: GramStats | None = None
    compensation: Tensor | None = None
    seen: tuple[bool, ...] = ()
    phases: tuple[GramStats, ...] = ()
    num_phases: int = 0

    def __post_init__(self) -> None:
        for name in ("ratio", "ridge", "compensation_ridge"):
            number(name, getattr(self, name))

    def add(self, phase: GramStats, new_classes: Iterable[int] | None = None) -> DualStream:
        """Return the state after one more phase.

        Args:
            phase: Statistics of all samples of the phase, whoever held them.
            new_classes: Classes that are new in it; None: those with samples in it and none before.

        Raises:
            BadInput: The statistics do not fit those before, are weighted, or have no two halves.
        """
        if phase.num_features % 2 or phase.weighting is not None:
            raise BadInput(
                f"statistics of {phase.num_features} features cannot be two streams: use the expansion "
                "DualReLUTanh, and no class weights"
            )
        if self.total is not None:
            self.total.check_fits(phase)
        if phase.count == 0:
            if self.total is not None:
                return self
            none = torch.zeros(phase.num_features // 2, phase.num_classes, dtype=torch.float64)
            return replace(self, total=phase, compensation=none, seen=(False,) * phase.num_classes)
        here = [n > 0 for n in phase.class_counts.tolist()]
        before = self.seen or (False,) * len(here)
        if new_classes is None:
            fresh = [c for c, is_here in enumerate(here) if is_here and not before[c]]
        else:
            fresh = sorted(set(new_classes))
            if fresh and not 0 <= fresh[0] <= fresh[-1] < len(here):
                raise BadInput(f"new_classes={fresh} must lie in 0..{len(here) - 1}")
        total = phase if self.total is None else self.total + phase
        added = self.compensation
        if fresh or added is None:
            w, scale = phase.num_features // 2, phase.scale or 1.0
            added = torch.zeros(w, len(here), dtype=torch.float64) if added is None else added.clone()
            weight = _half(total, slice(0, w), self.ridge).weight[:, fresh]
            with one_thread():
                residue = phase.cross[w:, fresh].cpu().to(torch.float64) / scale
                residue -= (phase.gram[w:, :w].cpu().to(torch.float64) @ weight) / scale**2
            added[:, fresh] += residue
        seen = tuple(a or b for a, b in zip(before, here, strict=True))
        phases = (*self.phases, phase) if self.keep_phases else ()
        count = self.num_phases + 1
        return replace(self, total=total, compensation=added, seen=seen, phases=phases, num_phases=count)

    def forget(self, phase: int, statistics: GramStats) -> DualStream:
        """Return the state as if these samples had never been in that phase.

        Args:
            phase: Phase to forget from, counted from 0 over the phases with samples.
            statistics: Statistics of the samples to forget.

        Raises:
            BadInput: The phases were not kept, there is no such phase, or the samples were never part of it.
        """
        if not self.keep_phases:
            raise BadInput(
                "this stream kept no phase, and later residues depend on what is to be forgotten: build it "
                "with keep_phases=True, or train anew without these samples"
            )
        if not 0 <= phase < len(self.phases):
            raise BadInput(f"phase {phase} lies outside 0..{len(self.phases) - 1}")
        left = [part - statistics if t == phase else part for t, part in enumerate(self.phases)]
        # A phase that is empty now keeps its place, for the numbers of those after it.
        return replace(self.after(left), phases=tuple(left), num_phases=len(left))

    def after(self, phases: Iterable[GramStats]) -> DualStream:
        """Return the state with these settings after these phases alone."""
        state = replace(self, total=None, compensation=None, seen=(), phases=(), num_phases=0)
        for part in phases:
            state = state.add(part)
        return state

    def solution(self) -> Solution:
        """Return the head [W_M; r W_C], (2w, c), and how well both systems were posed.

        Raises:
            BadInput: There is no phase yet.
        """
        return self._joined(*self._streams())

    def _streams(self) -> tuple[Solution, Solution]:
        if self.total is None or self.compensation is None:
            raise BadInput("there is no phase yet: nothing to solve")
        w = self.total.num_features // 2
        return (
            _half(self.total, slice(0, w), self.ridge),
            _half(self.total, slice(w, None), self.compensation_ridge, self.compensation),
        )

    def _joined(self, main: Solution, compensation: Solution) -> Solution:
        weight = torch.cat([main.weight, self.ratio * compensation.weight])
        worst = max(main.condition, compensation.condition)
        return Solution(weight, self.ridge, worst, main.rank + compensation.rank)

    def search(
        self,
        held_out: GramStats,
        ratios: Sequence[float],
        compensation_ridges: Sequence[float] = (),
        ridges: Sequence[float] = (),
    ) -> DualStream:
        """Return the state whose head errs least on held-out samples, of which only the statistics are needed.

            |Y - h W|^2 = tr(W'GW) - 2 tr(W'C) + n

        Args:
            held_out: Statistics of the held-out samples: additive over clients like any others.
            ratios, compensation_ridges, ridges: Candidates; none given keeps the present one. Other main ridges need
                the phases kept, for the residue of each phase is that of its main head.

        Raises:
            BadInput: There are no held-out samples, no ratio, or other main ridges and no phases.
        """
        if held_out.count == 0 or not ratios:
            raise BadInput("a search needs held-out samples and at least one ratio")
        if any(ridge != self.ridge for ridge in ridges) and not self.keep_phases:
            raise BadInput("other main ridges need each phase again: build the stream with keep_phases=True")
        if self.total is not None:
            self.total.check_fits(held_out)
        best, least = self, math.inf
        for ridge in ridges or (self.ridge,):
            stream = self if ridge == self.ridge else replace(self, ridge=ridge).after(self.phases)
            for compensation_ridge in compensation_ridges or (self.compensation_ridge,):
                stream = replace(stream, compensation_ridge=compensation_ridge)
                main, compensation = stream._streams()
                for ratio in ratios:
                    candidate = replace(stream, ratio=ratio)
                    error = squared_error(held_out, candidate._joined(main, compensation).weight)
                    if error < least:
                        best, least = candidate, error
        return best


def number(name: str, value: float | str) -> float:
    """Return a ratio or a ridge of a stream.

    Raises:
        BadInput: It is negative, not finite, or no number: cross-validation knows one ridge, and two streams have
            two.
    """
    if isinstance(value, str):
        raise BadInput(
            f"{name}={value!r}: two streams have a ridge each, and cross-validation knows one; give numbers, "
            "which `DualStream.search` finds from held-out statistics"
        )
    return checks.number(name, value, least=0)


def squared_error(held_out: GramStats, weight: Float64[Tensor, "d c"]) -> float:
    """Return |Y - h W|^2 over the samples that the statistics are of."""
    scale, unit = held_out.scale or 1.0, held_out.weight_unit or 1
    gram = held_out.gram.cpu().to(torch.float64) / (scale**2 * unit)
    cross = held_out.cross.cpu().to(torch.float64) / (scale * unit)
    with one_thread():
        return float((weight * (gram @ weight - 2 * cross)).sum()) + held_out.target_squares


def _half(stats: GramStats, here: slice, ridge: float, cross: Tensor | None = None) -> Solution:
    """Solve one stream, in units of the features: W = scale^2 (Q'Q + g scale^2 I)^-1 C."""
    scale = stats.scale or 1.0
    gram = stats.gram[here, here].cpu().to(torch.float64)
    target = stats.cross[here].cpu().to(torch.float64) / scale if cross is None else cross
    solved = ridge_solve(gram.contiguous(), target.contiguous(), ridge * scale**2)
    return replace(solved, weight=solved.weight * scale**2, ridge=float(ridge))
