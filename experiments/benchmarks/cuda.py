"""What a GPU changes: the same statistics, bit by bit, and how much sooner; needs neither Flower nor Ray.

    python -m experiments.benchmarks.cuda [--rows 100000] [--features 2048] [--clients 1000] [--repeats 5]

    statistics    X'X and X'Y of ReLU features: exact integers (one hash on both devices) and float64
    solve         the head of the statistics; always on the CPU, so that it has the same bits
    clients       one local epoch of FedAvg of all clients, stacked; float32, so equal to rounding
    DP-SGD        steps of a two-layer network, ghost clipping and hooks, against the same steps of plain SGD

Every figure is the median of the repeats, each timed to the end of the device's work; the transfer to the device
is not counted. The first row of each kind warms up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments.benchmarks.layout import columns, options
from fedlab.gradient.descent import Descent
from fedlab.gradient.networks import Hidden
from fedlab.gradient.stacked import Stacked
from fedlab.privacy.dpsgd.private_gradient import DPSGD, Rows
from fedlab.stats import FixedPoint, GramStats, one_hot

DEVICES = ("cpu", "cuda")
Act = Callable[[], Any]
On = Callable[[torch.device], Act]
"""Puts the data on a device, and returns what is timed there."""
Steps = Callable[[nn.Module, torch.optim.Optimizer, Tensor, Tensor], None]
"""Trains a module on features and labels."""
Row = tuple[str, On, Callable[[Any, Any], str]]
"""What is done, how, and how the CPU's result is compared with the GPU's."""


def main() -> None:
    """Measure and print."""
    parser = options(__doc__, rows=100_000, features=2048, clients=1000, repeats=5)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device here: there is nothing to compare")
    table = columns(
        f"{torch.cuda.get_device_name()} against {torch.get_num_threads()} cores",
        "<what | CPU s | GPU s | times as fast | <compared",
    )
    for what, one, compared in (*statistics(args.rows, args.features), clients(args.clients), *private()):
        seconds, results = zip(*(timed(one, torch.device(kind), args.repeats) for kind in DEVICES), strict=True)
        cells = (f"{seconds[0]:.3g}", f"{seconds[1]:.3g}", f"{seconds[0] / seconds[1]:.1f}")
        table.add_row(what, *cells, compared(*results))
    Console(width=150).print(table)


def timed(one: On, device: torch.device, repeats: int) -> tuple[float, Any]:
    """Return the median seconds of what `one` prepares for a device, and its last result."""
    act = one(device)
    seconds, result = [], act()
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        result = act()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return median(seconds), result


def statistics(rows: int, features: int) -> Iterator[Row]:
    """Yield exact and float64 statistics, and the solve."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(rows, features, generator=generator, dtype=torch.float64)
    y = one_hot(torch.randint(100, (rows,), generator=generator), 100)
    fixed = FixedPoint(limit=1.0, bits=12)

    def summed(how: FixedPoint | None) -> On:
        def on(device: torch.device) -> Act:
            here = x.to(device), y.to(device)
            return lambda: GramStats.from_batch(*here, how)

        return on

    def solved(device: torch.device) -> Act:
        total = GramStats.from_batch(x.to(device), y.to(device), fixed)
        return lambda: total.solve(1.0)

    shape = f"{rows:,} x {features}"
    yield f"exact statistics, {shape}", summed(fixed), lambda a, b: _same(a.sha256, b.sha256)
    yield f"float64 statistics, {shape}", summed(None), lambda a, b: _apart(a.gram, b.gram)
    yield f"solve of {features} x 100", solved, lambda a, b: _same(a.tolist(), b.tolist())


def clients(number: int) -> Row:
    """Return local SGD of many clients at once, 64-64-10, 50 samples each, in one stack."""
    generator = torch.Generator().manual_seed(0)
    sizes = [50] * number
    h = torch.rand(sum(sizes), 64, generator=generator)
    labels = torch.randint(10, (len(h),), generator=generator)
    network = Hidden(64)
    stacked = Stacked(network, Descent(epochs=1, batch_size=10), 64, 10)
    start = {name: torch.tensor(array) for name, array in network.initial(64, 10, 0).items()}

    def on(device: torch.device) -> Act:
        model = {name: array.to(device) for name, array in start.items()}
        here = h.to(device), labels.to(device)
        return lambda: stacked.run(model, *here, sizes, range(number))[0]

    return (
        f"local SGD of {number} clients",
        on,
        lambda a, b: max((_apart(a[name], b[name]) for name in a), key=lambda text: float(text.split()[-1])),
    )


def private() -> Iterator[Row]:
    """Yield ten steps of DP-SGD, and of plain SGD, over the same 2,048 samples: with q = 1 no chance is left."""
    n = 2048
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 512, generator=generator)
    labels = torch.randint(10, (n,), generator=generator)

    def fresh(device: torch.device) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 10)).to(device)

    def plain(module: nn.Module, optimizer: torch.optim.Optimizer, h: Tensor, y: Tensor) -> None:
        for _ in range(10):
            optimizer.zero_grad()
            cross_entropy(module(h), y).backward()
            optimizer.step()

    def clipped(clipping: str) -> Steps:
        def train(module: nn.Module, optimizer: torch.optim.Optimizer, h: Tensor, y: Tensor) -> None:
            rule = DPSGD(1.0, 0.0, 1.0, 10, n, physical_batch=256, clipping=clipping)
            rule.train(module, Rows(h, y), _losses, optimizer, torch.Generator().manual_seed(0), probe=False)

        return train

    def trained(train: Steps) -> On:
        def on(device: torch.device) -> Act:
            here = x.to(device), labels.to(device)

            def act() -> Tensor:
                module = fresh(device)
                train(module, torch.optim.SGD(module.parameters(), lr=0.1), *here)
                return next(module.parameters()).detach()

            return act

        return on

    yield "10 steps of plain SGD, 2,048 samples", trained(plain), _apart
    yield "10 steps of DP-SGD, ghost", trained(clipped("ghost")), _apart
    yield "10 steps of DP-SGD, hooks", trained(clipped("hooks")), _apart


def _losses(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return cross_entropy(module(batch[0]), batch[1], reduction="none")


def _same(a: object, b: object) -> str:
    return "the same bits" if a == b else "DIFFERENT"


def _apart(a: Tensor, b: Tensor) -> str:
    a, b = a.cpu().double(), b.cpu().double()
    return f"relative difference {float((a - b).norm() / a.norm()):.1e}"


if __name__ == "__main__":
    main()
