"""A stream over a thousand clients against one machine that sees the same phases, and how both grow with them.

    python -m experiments.benchmarks.continual [--clients 1000] [--features 4096] [--repeats 3]

Letters, one class and then one a phase (25 phases), Dirichlet 0.1, exact mode: after every phase both sides hold the
joint solution and judge it, and the heads must be the same bits. Messages, packing and the engine count on the
federated side; loading the data and starting Ray on neither. Both sides in turn, the median of the ratios counts.
Then the same samples in 5, 25 and 125 phases: seconds are a + b phases.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.layout import columns, options
from experiments.config.compose import compose
from experiments.runner.compare import build_world, make_grid, run_method
from fedlab.tracking.run_directory import RunDirectory

CUTS = (5, 25, 125)


def main() -> None:
    """Measure, compare the heads, print both tables."""
    parser = options(__doc__, clients=1000, features=4096, repeats=3)
    parser.add_argument("--source", default="letter")
    args = parser.parse_args()
    console = Console()
    same = [f"clients={args.clients}", f"features.expansion.width={args.features}", f"source={args.source}"]
    with tempfile.TemporaryDirectory() as folder, RunDirectory(Path(folder)) as directory:
        console.print(against_one_machine(console, same, args.repeats, directory))
        console.print(growth(console, same, directory))


def against_one_machine(console: Console, overrides: list[str], repeats: int, directory: RunDirectory) -> Table:
    """Return the table of one machine, LocalGrid and RayGrid over the phases of classes."""
    results: dict[str, list[dict[str, Any]]] = {"one machine": [], "LocalGrid": [], "RayGrid, 2 workers": []}
    engines = {"LocalGrid": "local", "RayGrid, 2 workers": "ray"}
    for _ in range(repeats):
        for name, runs in results.items():
            words = ["experiment=cil_letter", *overrides, f"engine={engines.get(name, 'local')}"]
            runs.append(measured(words, "acil" if name in engines else "centralised", directory))
            console.print(f"{name}: {runs[-1]['seconds']['total']:.1f} s", highlight=False)
    heads = {result["head_sha256"] for runs in results.values() for result in runs}
    assert len(heads) == 1, f"{len(heads)} different heads"
    table = columns(
        f"{' '.join(overrides)}, 26 classes in 25 phases; one head {heads.pop()[:12]}",
        "< | seconds | of them clients | adding and solving | judging | times one machine | sent by a client",
    )
    alone = [result["seconds"]["total"] for result in results["one machine"]]
    for name, runs in results.items():
        parts = ("total", "train", "aggregate", "evaluate")
        seconds = [f"{median(result['seconds'][part] for result in runs):.1f}" for part in parts]
        ratio = median(r["seconds"]["total"] / one for r, one in zip(runs, alone, strict=True))
        size = runs[0]["bytes_up_per_client"]
        table.add_row(name, *seconds, f"{ratio:.2f}", f"{size / 1e6:.2f} MB" if size else "")
    return table


def growth(console: Console, overrides: list[str], directory: RunDirectory) -> Table:
    """Return the table of seconds against phases of samples."""
    seconds = {}
    for phases in CUTS:
        words = ["experiment=cil_digits", *overrides, "stream=sample_incremental", f"stream.phases={phases}"]
        seconds[phases] = measured(words, "acil", directory)["seconds"]["total"]
        console.print(f"{phases} phases: {seconds[phases]:.1f} s", highlight=False)
    slope, start = np.polyfit(list(seconds), list(seconds.values()), 1)
    table = columns(
        f"LocalGrid: {start:.1f} s + {slope:.2f} s a phase", "phases | seconds | seconds a phase | off the line"
    )
    for phases, took in seconds.items():
        off = took / (start + slope * phases) - 1
        table.add_row(str(phases), f"{took:.1f}", f"{took / phases:.2f}", f"{off:+.1%}")
    return table


def measured(words: list[str], method: str, directory: RunDirectory) -> dict[str, Any]:
    """Return the result of one method in this process, the world having been built before."""
    cfg: DictConfig = compose([*words, f"methods=[{method}]"])
    everyone = build_world(cfg, directory)
    if method == "centralised":
        return run_method(cfg, method, everyone, None, directory)[0]
    with make_grid(cfg, everyone) as grid:
        return run_method(cfg, method, everyone, grid, directory)[0]


if __name__ == "__main__":
    main()
