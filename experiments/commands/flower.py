"""`fedlab flower APP_DIR`: an unmodified Flower app on fedlab's engine; the exit code is 2 where a client failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from experiments.commands.words import Word, console
from experiments.messages import say


@click.command("flower", cls=Word)
@click.argument("folder", metavar="APP_DIR", type=click.Path(path_type=Path))
@click.option("--nodes", type=int, help="Number of simulated nodes; the app's own, or 2.")
@click.option("--engine", type=click.Choice(("local", "ray")), default="local", help="This process, or Ray actors.")
@click.option("--workers", type=int, help="Number of Ray actors; one per CPU.")
@click.option("--run-config", metavar="KEY=VALUE...", multiple=True,
              help="Overrides of the app's config, in TOML: rounds=3 name='\"text\"'; or one TOML file.")  # fmt: skip
def command(folder: Path, nodes: int | None, engine: str, workers: int | None, run_config: Sequence[str]) -> int:
    """Run an unmodified Flower app on this engine: fedlab flower APP_DIR.

    APP_DIR holds the app's pyproject.toml.
    """
    from experiments.runner.flower_app import run_app

    grid = run_app(folder, nodes, engine, workers, run_config, console())
    if not grid.errors:
        return 0
    return say(f"{grid.errors} of {sum(grid.sent.values())} messages failed: the first one's traceback is above")
