"""Continual learning of a stream: the recursion of the papers against sums that are solved when asked.

    python -m experiments.benchmarks.recursion [--batches 100] [--batch 512] [--features 4096] [--repeats 3]

    recursion    R <- R - R X'(I + X R X')^-1 X R,   W <- W + R X'(Y - X W),   from R = I / g and W = 0
    sums         G <- G + X'X,   C <- C + X'Y;   at the end (G + g I) W = C

Published code writes both lines as they stand, and a chain of products is taken from the left: R X' K X times
R is then a product of two d x d matrices for every batch. Well associated, it is T'(K T) with T = X R, and the
other line R (X'(Y - X W)). One can do better: the gain R X' of the new R is (K T)', so that W needs no d x d
matrix. These three are timed in float64, and two of them once in float32. Sums are as the library makes them, in
float64 and in exact integers, and the solve counts. 100 batches of 512 are the samples of CIFAR-100.

All see the same numbers, random ReLU features on a 12-bit grid, which float32 holds exactly. The error of a
head is its distance from the joint solution relative to its norm; the joint solution is refined by its
residual X'(Y - X W) - g W, which is taken from the samples. Zhuang et al., ACIL, NeurIPS 2022,
https://arxiv.org/abs/2205.14922, equations 9 and 10. b samples in a batch, d features, c classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import torch
from rich.console import Console
from torch import Tensor

from experiments.benchmarks.layout import columns, options, timed
from fedlab.analytic import RandomReLU
from fedlab.stats import FixedPoint, GramStats, GramSum, one_hot
from fedlab.stats.arithmetic.solve import Solution

INPUTS = FixedPoint(limit=1.0, bits=12)


@dataclass(frozen=True)
class Stream:
    """Samples that arrive in batches; every reading gives the same numbers."""

    batches: int
    batch: int
    features: int
    classes: int
    inputs: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (X, Y) of each batch."""
        generator = torch.Generator().manual_seed(0)
        kind = {"generator": generator, "dtype": torch.float64}
        centres = torch.rand(self.classes, self.inputs, **kind)
        for _ in range(self.batches):
            labels = torch.randint(self.classes, (self.batch,), generator=generator)
            inputs = centres[labels] + 0.2 * torch.randn(self.batch, self.inputs, **kind)
            h, _, _ = RandomReLU(self.features).integers(INPUTS.encode(inputs)[0], INPUTS)
            yield self.fixed.decode(h), one_hot(labels, self.classes)

    @property
    def fixed(self) -> FixedPoint:
        """The grid of the features, its step a power of two: then float32 holds them too."""
        nothing = torch.zeros(0, self.inputs, dtype=torch.float64)
        scale = RandomReLU(self.features).integers(nothing, INPUTS)[1].scale
        return FixedPoint(INPUTS.levels / 2.0 ** round(math.log2(scale)), INPUTS.bits)


class Recursion:
    """The papers' state: an inverse R and a head W, both updated by every batch."""

    def __init__(self, stream: Stream, ridge: float, kind: torch.dtype):
        self.kind = kind
        self.inverse = torch.eye(stream.features, dtype=kind) / ridge
        self.weight = torch.zeros(stream.features, stream.classes, dtype=kind)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Update R, then W, by a batch."""
        self._update(x.to(self.kind), y.to(self.kind))

    def head(self) -> Tensor:
        """Return W."""
        return self.weight

    def _update(self, x: Tensor, y: Tensor) -> None:
        raise NotImplementedError


class FromTheLeft(Recursion):
    """As published code has it."""

    def _update(self, x: Tensor, y: Tensor) -> None:
        k = torch.inverse(torch.eye(len(x), dtype=self.kind) + x @ self.inverse @ x.T)
        self.inverse -= self.inverse @ x.T @ k @ x @ self.inverse
        self.weight += self.inverse @ x.T @ (y - x @ self.weight)


class WellAssociated(Recursion):
    """The same two lines with the products in a better order; K by its factor."""

    def _update(self, x: Tensor, y: Tensor) -> None:
        self._shrink(x)
        self.weight.addmm_(self.inverse, x.T @ (y - x @ self.weight))

    def _shrink(self, x: Tensor) -> Tensor:
        t = x @ self.inverse
        system = torch.addmm(torch.eye(len(x), dtype=self.kind), t, x.T)
        s = torch.cholesky_solve(t, torch.linalg.cholesky(system))
        self.inverse.addmm_(t.T, s, alpha=-1)
        return s


class GainReused(WellAssociated):
    """And without R in the update of W."""

    def _update(self, x: Tensor, y: Tensor) -> None:
        self.weight.addmm_(self._shrink(x).T, y - x @ self.weight)


class Sums:
    """The library's: keep (G, C), solve when asked."""

    def __init__(self, ridge: float, fixed: FixedPoint | None):
        self.ridge, self.fixed, self.total = ridge, fixed, GramSum()

    def add(self, x: Tensor, y: Tensor) -> None:
        """Check the batch and add its statistics."""
        self.total.add(GramStats.from_batch(x, y, self.fixed))

    def head(self) -> Tensor:
        """Solve, and return W."""
        return self.total.result().solve(self.ridge)


def run(stream: Stream, learner: Recursion | Sums) -> tuple[Tensor, float, float]:
    """Return the head, the seconds of all batches and those of asking for the head; samples cost nothing."""
    seconds = 0.0
    for x, y in stream:
        seconds += timed(learner.add, x, y)[1]
    head, last = timed(learner.head)
    return head.to(torch.float64), seconds, last


def joint(stream: Stream, ridge: float, steps: int = 4) -> tuple[Tensor, Solution]:
    """Return the refined joint solution, and what the first solve said about the system."""
    learner = Sums(ridge, None)
    for batch in stream:
        learner.add(*batch)
    statistics = learner.total.result()
    first = statistics.solution(ridge)
    weight, system = first.weight, statistics.gram.clone()
    system.diagonal().add_(ridge)
    factor = torch.linalg.cholesky(system)
    for _ in range(steps):
        residual = -ridge * weight
        for x, y in stream:
            residual += x.T @ (y - x @ weight)
        weight = weight + torch.cholesky_solve(residual, factor)
    return weight, first


def main() -> None:
    """Time all on the same stream, in turn, and print a table."""
    parser = options(__doc__, batches=100, batch=512, features=4096, classes=100, inputs=256, repeats=3)
    parser.add_argument("--ridge", type=float, default=0.1)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows and the sums: left well ...")
    args = parser.parse_args()
    stream = Stream(args.batches, args.batch, args.features, args.classes, args.inputs)
    console = Console()

    wanted, first = joint(stream, args.ridge)
    console.print(f"condition of G + g I: {first.condition:.1e}, g = {args.ridge}")
    learners: dict[str, Callable[[], Recursion | Sums]] = {
        "left": lambda: FromTheLeft(stream, args.ridge, torch.float64),
        "well": lambda: WellAssociated(stream, args.ridge, torch.float64),
        "gain reused": lambda: GainReused(stream, args.ridge, torch.float64),
        "left, float32": lambda: FromTheLeft(stream, args.ridge, torch.float32),
        "well, float32": lambda: WellAssociated(stream, args.ridge, torch.float32),
        "sums, float64": lambda: Sums(args.ridge, None),
        "sums, exact": lambda: Sums(args.ridge, stream.fixed),
    }
    if unknown := set(args.only or ()) - set(learners):
        parser.error(f"--only {' '.join(sorted(unknown))}: the rows are {', '.join(learners)}")
    chosen = {*(args.only or learners), "sums, float64", "sums, exact"}
    learners = {name: make for name, make in learners.items() if name in chosen}
    seconds: dict[str, list[list[float]]] = {name: [] for name in learners}
    errors: dict[str, float] = {}
    for repeat in range(args.repeats):
        for name, make in learners.items():
            if repeat and name.endswith("float32"):
                continue  # for its error, which is always the same
            head, *spent = run(stream, make())
            seconds[name].append(spent)
            errors[name] = float((head - wanted).norm() / wanted.norm())

    total = {name: median(map(sum, pairs)) for name, pairs in seconds.items()}
    table = columns(
        f"{args.batches} batches of {args.batch}, d={args.features}, c={args.classes}, median of {args.repeats}",
        "< | a batch, s | head, s | all, s | / sums | / exact | error",
    )
    for name, pairs in seconds.items():
        adding, asking = map(median, zip(*pairs, strict=True))
        ratios = [f"{total[name] / total[ours]:.1f}" for ours in ("sums, float64", "sums, exact")]
        cells = (f"{adding / args.batches:.3f}", f"{asking:.2f}", f"{total[name]:.2f}")
        table.add_row(name, *cells, *ratios, f"{errors[name]:.1e}")
    console.print(table)
    console.print(
        "left, well, gain reused: the recursion; all: every batch, and the head at the end;\n"
        "/ sums, / exact: all over that of the sums in float64 and in exact integers"
    )


if __name__ == "__main__":
    main()
