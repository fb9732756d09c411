"""Deleting 10 of 1000 clients, against one solve and against the federation without them; both sides in turn.

    python -m experiments.benchmarks.unlearning [--features 512 1024 2048] [--classes 100] [--repeats 7] [overrides]

A deletion is the subtraction and the solve: of dense statistics in memory, of packed ones, and of files that are
read and checked. `durable` is the whole transaction: digests of all sums for the certificate, and the new total and
head on the disk before it returns. The federation is `experiment=unlearn_afl`, run again without those who left: of
letters in 512 random features, or as the overrides say. Its clients are asked together and their samples lie in the
memory of the workers already, so it is the fastest federation that there could be.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.layout import columns, options, timed
from experiments.config.compose import compose
from experiments.runner.compare import build_world, make_grid, run_method
from experiments.runner.deletion import kept_by
from experiments.studies.unlearning import drawn, without
from fedlab.analytic import Joint
from fedlab.engine.messages.records import digest_of
from fedlab.engine.persistence.statistics_store import Keeper, Kept
from fedlab.engine.simulation.host import node_of
from fedlab.stats import FixedPoint, GramStats, GramSum, Solution, one_hot, pack, total_of, unpack
from fedlab.stats.serialization.packed_total import unpack_total
from fedlab.tracking.run_directory import RunDirectory
from fedlab.unlearning.exact import ExactUnlearning

RIDGE = 1.0
FEDERATION = ("source=letter", "features.expansion.width=512")
Ways = Mapping[str, Callable[[], Solution]]


def main() -> None:
    """Measure both and print two tables."""
    parser = options(__doc__, clients=1000, leaving=10, classes=100, samples=50, repeats=7)
    parser.add_argument("--features", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("overrides", nargs="*", default=list(FEDERATION))
    args = parser.parse_args()
    console = Console()
    table = columns(
        f"{args.leaving} of {args.clients} clients leave: times one solve, medians of {args.repeats}",
        "d | samples of a client | solve, ms | in memory | packed | from disk | durable | one hash",
    )
    for d in args.features:
        for samples in (args.samples, 2 * d):
            table.add_row(f"{d}", f"{samples}", *_server(args, d, samples))
    console.print(table)
    console.print(_federation(args.repeats, args.overrides))


def _server(args: argparse.Namespace, d: int, samples: int) -> list[str]:
    """Return one row: what a deletion costs the server. Those who stay are in the total, as 50 samples each."""
    draw = torch.Generator().manual_seed(d + samples)
    stay = GramSum()
    for part in np.array_split(np.arange(args.samples * (args.clients - args.leaving)), 10):
        stay.add(_client(len(part), d, args.classes, draw))
    rest = stay.result()
    gone = [_client(samples, d, args.classes, draw) for _ in range(args.leaving)]
    dense = [replace(one, rows=None, matrix=one.gram) for one in gone]
    packed = [pack(one) for one in gone]
    total = total_of([rest, *gone])
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(folder)
        keeper.begin()
        for node, arrays in enumerate(packed):
            keeper.keep(node, arrays)
        keeper.close(total, total.solution(RIDGE))
        sums = ExactUnlearning(Path(folder), Joint(RIDGE))
        ways: Ways = {
            "solve": lambda: total.solution(RIDGE),
            "in memory": lambda: total.without(dense).solution(RIDGE),
            "packed": lambda: (total - unpack_total(packed)).solution(RIDGE),
            "from disk": lambda: _from_disk(sums.kept, range(args.leaving)),
        }
        seconds: dict[str, list[float]] = {way: [] for way in [*ways, "durable"]}
        heads, left = {}, set()
        for _ in range(args.repeats):
            for way, work in ways.items():
                heads[way], spent = timed(work)
                seconds[way].append(spent)
            with tempfile.TemporaryDirectory() as copy:
                shutil.copytree(folder, copy, dirs_exist_ok=True)
                certificate, spent = timed(ExactUnlearning(Path(copy), Joint(RIDGE)).delete, range(args.leaving))
            seconds["durable"].append(spent)
            left.add(certificate.head_after)
    wanted = _digest(rest.solution(RIDGE))
    del heads["solve"]
    same = {wanted} == {*left, *map(_digest, heads.values())}
    once = median(seconds.pop("solve"))
    ratios = [f"{median(times) / once:.2f}" for times in seconds.values()]
    return [f"{once * 1e3:.1f}", *ratios, "yes" if same else "NO"]


def _client(n: int, d: int, c: int, draw: torch.Generator) -> GramStats:
    x = torch.rand(n, d, generator=draw, dtype=torch.float64) * 2 - 1
    return GramStats.from_batch(x, one_hot(torch.randint(c, (n,), generator=draw), c), FixedPoint())


def _digest(solution: Solution) -> str:
    return digest_of({"weight": np.ascontiguousarray(solution.weight.numpy())})


def _from_disk(kept: Kept, nodes: Iterable[int]) -> Solution:
    state = kept.state()
    gone = unpack_total(kept.arrays(part.stored) for node in nodes for part in state.clients[node])
    return (unpack(kept.arrays(state.totals[0])) - gone).solution(RIDGE)


def _federation(repeats: int, overrides: Sequence[str]) -> Table:
    """Time deletions beside federations that run again without those who left."""
    cfg, name = compose(["experiment=unlearn_afl", *overrides]), "afl"
    runs, reads, deletions, heads = [], [], [], set()
    with tempfile.TemporaryDirectory() as folder, RunDirectory(Path(folder)) as directory:
        everyone = build_world(cfg, directory)
        with make_grid(cfg, everyone) as grid:
            run_method(cfg, name, everyone, grid, directory)
        leaving = drawn(cfg, everyone.federation.sizes)
        cell = without(cfg, name, leaving)
        others = build_world(cell, directory)
        with make_grid(cell, others) as grid:
            run_method(cell, name, others, grid, directory)  # workers start, and what is cached is cached
            for number in range(repeats):
                (result, _), spent = timed(run_method, cell, name, others, grid, directory)
                runs.append(spent)
                copy = Path(folder) / f"copy{number}"
                shutil.copytree(Path(folder) / "clients", copy / "clients")
                sums = kept_by(cfg, name, copy)
                reads.append(timed(_from_disk, sums.kept, map(node_of, leaving))[1])
                certificate, spent = timed(sums.delete, leaving)
                deletions.append(spent)
                heads |= {result["head_sha256"], certificate.head_after}
    table = columns(
        f"{' '.join(['experiment=unlearn_afl', *overrides])}: {len(leaving)} of {cfg.clients} leave",
        "< | seconds | the federation without them takes | one hash",
    )
    same = "yes" if len(heads) == 1 else "NO"
    table.add_row("federation without them", f"{median(runs):.3f}", "", same)
    for what, seconds in (("read, subtract and solve", reads), ("and certified, durable", deletions)):
        ratio = median(a / b for a, b in zip(runs, seconds, strict=True))
        table.add_row(what, f"{median(seconds):.3f}", f"{ratio:.1f} times as long", same)
    return table


if __name__ == "__main__":
    main()
