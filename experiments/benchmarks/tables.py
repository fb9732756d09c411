"""What `experiments.benchmarks.engine` has measured, as tables and a figure."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from experiments.benchmarks.layout import columns

WORKLOADS = {"no-op": 0, "64x64": 64, "512x512": 512}
"""Rows and columns of the float64 array in a reply; 0 is an empty reply."""
ENGINES = ("flower", "local", "ray", "local summed", "ray summed")
Key = tuple[str, int, str]
"""Workload, clients and engine of a measurement."""


def table(runs: list[dict[str, Any]]) -> Table:
    """Medians of every measurement."""
    shown = columns("a warm round", "<workload | clients | <engine | seconds | us/client | driver MiB | in all MiB")
    for key in keys(runs):
        workload, clients, engine = key
        seconds, driver, everything = (of(runs, key, what) for what in ("seconds", "driver", "all"))
        shown.add_row(workload, f"{clients:,}", engine, f"{seconds:.3g}", *shares(seconds, clients, driver, everything))
    return shown


def shares(seconds: float, clients: int, driver: float, everything: float) -> list[str]:
    """Return microseconds of a client, and MiB of the driver and in all."""
    return [f"{seconds / clients * 1e6:.0f}", f"{driver / 2**20:.0f}", f"{everything / 2**20:.0f}"]


def keys(runs: list[dict[str, Any]]) -> list[Key]:
    """Return what was measured, in the order of the first times."""
    return list(dict.fromkeys((r["workload"], r["clients"], r["engine"]) for r in runs))


def of(runs: list[dict[str, Any]], key: Key, what: str) -> float:
    """Return the median of a measurement."""
    return median(r[what] for r in series(runs, *key))


def ratios(runs: list[dict[str, Any]], clients: int) -> Table:
    """How many times as long, and how much more driver memory, Flower's engine takes."""
    shown = columns(
        f"Flower's engine against ours, {clients:,} clients: medians of ratios",
        "<workload | <engine | times as long | times the driver's memory",
    )
    for workload in WORKLOADS:
        for engine in ENGINES[1:]:
            both = (series(runs, workload, clients, name) for name in ("flower", engine))
            if pairs := list(zip(*both, strict=False)):
                cells = [f"{median(a[what] / b[what] for a, b in pairs):.1f}" for what in ("seconds", "driver")]
                shown.add_row(workload, engine, *cells)
    return shown


def series(runs: list[dict[str, Any]], workload: str, clients: int, engine: str) -> list[dict[str, Any]]:
    """Return the repeats of one measurement, in their order."""
    return [r for r in runs if (r["workload"], r["clients"], r["engine"]) == (workload, clients, engine)]


def afl_table(runs: list[dict[str, Any]]) -> Table:
    """AFL, engine included, beside one centralised Gram and solve."""
    shown = columns(
        "AFL: all messages, sums and the solve",
        "clients | engine | seconds | centralised s | ratio | us/client | driver MiB | in all MiB",
    )
    for r in runs:
        ours, alone, clients = r["seconds"], r["centralised"], r["clients"]
        cells = (f"{clients:,}", r["engine"], f"{ours:.3g}", f"{alone:.3g}", f"{ours / alone:.2f}")
        shown.add_row(*cells, *shares(ours, clients, r["driver"], r["all"]))
    return shown


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw seconds per round against clients, both axes logarithmic."""
    from fedlab.report.figures import seconds_against_clients

    lines: dict[str, dict[int, float]] = {}
    for key in keys(runs):
        workload, clients, engine = key
        lines.setdefault(f"{engine}, {workload}", {})[clients] = of(runs, key, "seconds")
    seconds_against_clients(lines).savefig(path)
