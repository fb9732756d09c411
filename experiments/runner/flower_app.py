"""An unmodified Flower app on fedlab's engine, its progress and its summary.

What the app prints and logs is shown as it comes. The run goes on after a client's exception, as under
Flower, but the first traceback is shown at once.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from fedlab.engine.flower_apps.apps import FlowerApp
from fedlab.engine.flower_apps.watched import WatchedGrid
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.simulated import SimulatedGrid
from fedlab.errors import BadInput
from fedlab.report.words import human_bytes, seconds

NODES = 2
"""As many as Flower simulates when nobody says how many."""
SILENCE = 10.0
"""Seconds between two lines of progress where no terminal redraws."""


def run_app(
    folder: Path, nodes: int | None, engine: str, workers: int | None, run_config: Sequence[str], console: Console
) -> WatchedGrid:
    """Run an app, print what it did, and return what was seen of its messages.

    Args:
        folder: Folder of the app's pyproject.toml.
        nodes: Number of simulated nodes; None for what the app says, or `NODES`.
        engine: Engine: 'local' for this process, 'ray' for Ray actors.
        workers: Number of Ray actors; None for one per CPU.
        run_config: Overrides of the app's config.
        console: Console of progress and summary.

    Raises:
        BadInput: No app there, one that cannot be imported or whose ServerApp raises, or a setting out of range.
    """
    app = FlowerApp.read(folder, run_config)
    nodes = nodes if nodes is not None else app.nodes or NODES
    if nodes < 1:
        raise BadInput(f"--nodes {nodes}: a federation needs at least 1 node")
    app.server()  # what cannot be imported is better refused before anything starts
    progress = _Progress(console, app.name)
    with _grid(app, nodes, engine, workers) as inner:
        grid = WatchedGrid(inner, progress)
        started = time.perf_counter()
        try:
            with progress.bar, _logging_above():
                app.run(grid)
        finally:  # a ServerApp may raise because its clients did
            took = time.perf_counter() - started
            console.print(_summary(app.name, nodes, grid, took), soft_wrap=True)
    return grid


def _grid(app: FlowerApp, nodes: int, engine: str, workers: int | None) -> SimulatedGrid:
    if engine == "local":
        if workers is not None:
            raise BadInput(f"--workers {workers}: the local engine has none, add --engine ray")
        return LocalGrid(app.client(), nodes, app.run_config)
    from fedlab.engine.simulation.cluster import available_cpus
    from fedlab.engine.simulation.ray_grid import RayGrid

    cpus = available_cpus()
    workers = cpus if workers is None else workers
    if not 1 <= workers <= cpus:
        raise BadInput(f"--workers {workers} lies outside 1..{cpus}: a worker needs a CPU, and {cpus} are here")
    return RayGrid(app.client(), nodes, app.run_config, num_workers=workers)


class _Progress:
    """A line that redraws on a terminal; elsewhere a line every `SILENCE` seconds."""

    def __init__(self, console: Console, name: str):
        self._console, self._printed = console, time.monotonic()
        self._moving = console.is_terminal and not console.is_dumb_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, console=console, disable=not self._moving, transient=True)
        self._task = self.bar.add_task(name, total=None)

    def __call__(self, event: str, **fields: Any) -> None:
        """Take an event of a WatchedGrid."""
        if event == "failed":
            what = f"client {fields['client']} failed: {fields['reason'].strip()}"
            self._console.print(Text(what, style="red"), soft_wrap=True)
            return
        if event == "warning":
            self._console.print(Text(f"warning: {fields['message']}", style="yellow"), soft_wrap=True)
            return
        number, done, total = fields["round"], fields["done"], fields["total"]
        what = fields["what"] if number is None else f"round {number}: {fields['what']}"
        self.bar.update(self._task, description=what, completed=done, total=total)
        if not self._moving and time.monotonic() - self._printed > SILENCE:
            self._printed = time.monotonic()
            self._console.print(f"{what}: {done} of {total} replies", soft_wrap=True)


@contextmanager
def _logging_above() -> Iterator[None]:
    """Let Flower's log appear above the line that redraws: it holds the stream from before the line began."""
    handlers = [h for h in logging.getLogger("flwr").handlers if isinstance(h, logging.StreamHandler)]
    before = [handler.setStream(sys.stderr) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            if stream is not None:
                handler.setStream(stream)


def _summary(name: str, nodes: int, grid: WatchedGrid, took: float) -> str:
    messages = ", ".join(f"{count} {kind}" for kind, count in grid.sent.items()) or "no"
    rounds = f"{grid.rounds} {'round' if grid.rounds == 1 else 'rounds'}, " if grid.rounds else ""
    traffic = grid.traffic
    return (
        f"{name} on {nodes} {'node' if nodes == 1 else 'nodes'}: {rounds}{messages} messages, "
        f"{grid.errors} errors, {human_bytes(traffic.bytes_down)} to the nodes, "
        f"{human_bytes(traffic.bytes_up)} back, "
        f"{seconds(took)} s ({seconds(min(traffic.seconds, took))} s waiting for nodes)"
    )
