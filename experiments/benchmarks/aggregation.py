"""Aggregating 1000 clients: fedlab's sums against AFL's pairwise law, both timed in one run.

    python -m experiments.benchmarks.aggregation [--clients 1000] [--features 512] [--classes 100]

The server's step alone is compared: it starts from what the clients uploaded (packed statistics here, W_k and
C_k there) and ends with the head. Unpacking, summing and solving all count on our side. The floor is what the
sums must do at least: k n_k d^2 multiply-adds for the stacked factors, and one d^3/3 factorisation.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from statistics import median

import torch
from rich.console import Console

from experiments.benchmarks.layout import columns, options, timed
from experiments.studies.afl_pairwise import aggregate, local_solution
from fedlab.stats import GramStats, one_hot, pack, total_of, unpack


def main() -> None:
    """Time both and print a table."""
    parser = options(__doc__, clients=1000, features=512, classes=100, samples=50, repeats=5)
    args = parser.parse_args()
    console = Console()
    memory = []
    for k in (args.clients // 10, args.clients, 4 * args.clients):
        before = peak()
        total_of(arriving(k, args.samples, args.features, args.classes)).solve(1.0)
        memory.append(f"{k} clients {mib(peak() - before)}")
    console.print("server memory beyond what the row before took, replies arriving one by one: " + ", ".join(memory))

    generator = torch.Generator().manual_seed(0)
    n = args.clients * args.samples
    x = torch.randn(n, args.features, generator=generator, dtype=torch.float64)
    y = one_hot(torch.randint(args.classes, (n,), generator=generator), args.classes)
    parts = list(zip(x.split(args.samples), y.split(args.samples), strict=True))

    uploads, packing = timed(lambda: [pack(GramStats.from_batch(*part)) for part in parts])
    before = peak()
    sums, heads = [], []
    for _ in range(args.repeats):
        head, seconds = timed(lambda: total_of(map(unpack, uploads)).solve(1.0))
        sums.append(seconds)
        heads.append(head)
    after_sums = peak()

    parties, local = timed(lambda: [local_solution(*part, 1.0) for part in parts])
    merged, law = timed(lambda: aggregate(parties, 1.0))
    after_law = peak()

    central, central_seconds = timed(lambda: GramStats.from_batch(x, y).solve(1.0))
    oracle = torch.linalg.lstsq(x, y).solution
    unregularised = total_of(map(unpack, uploads)).solve(0.0)

    table = columns(
        f"{args.clients} clients, {args.samples} samples each, d={args.features}, c={args.classes}",
        "< | clients (s) | server (s) | upload per client | server memory | error",
    )
    for name, of_clients, of_server, upload, peaks, head in (
        ("sums", packing, median(sums), uploads[0].values(), (before, after_sums), unregularised),
        ("pairwise law", local, law, parties[0], (after_sums, after_law), merged),
    ):
        size = f"{sum(array.nbytes for array in upload) / 2**20:.2f} MiB"
        cells = (f"{of_clients:.2f}", f"{of_server:.3f}", size, mib(peaks[1] - peaks[0]))
        table.add_row(name, *cells, f"{relative(head, oracle):.1e}")
    table.add_row("centralised", "", f"{central_seconds:.3f}", "", "", f"{relative(central, heads[0]):.1e}")
    console.print(table)
    console.print(
        f"the law takes {law / median(sums):.0f} times as long on the server; errors: relative to least "
        "squares (centralised: ours against it, both with ridge 1)"
    )


def arriving(clients: int, samples: int, features: int, classes: int) -> Iterator[GramStats]:
    """Yield clients' statistics as they come off the wire, each made when it is asked for."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(clients):
        x = torch.randn(samples, features, generator=generator, dtype=torch.float64)
        y = one_hot(torch.randint(classes, (samples,), generator=generator), classes)
        yield unpack(pack(GramStats.from_batch(x, y)))


def peak() -> float:
    """Return the process's peak memory in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def mib(value: float) -> str:
    """Write mebibytes."""
    return f"{value:.0f} MiB"


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return |a - b| / |b|."""
    return float((a - b).norm() / b.norm())


if __name__ == "__main__":
    main()
