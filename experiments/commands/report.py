"""`fedlab report DIR...`: write the page of each run.

A folder of runs (a sweep) stands for the runs in it. A run that cannot be shown does not keep the others
from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from experiments.messages import say
from fedlab.errors import BadInput


@click.command("report")
@click.argument("directories", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
def command(directories: Sequence[Path]) -> int:
    """Write DIR/index.html for run directories: fedlab report DIR ...

    The folder of a sweep stands for the runs in it.
    """
    from fedlab.report.page import write_page

    status = 0
    for directory in directories:
        for run in _runs(directory):
            try:
                print(write_page(run))
            except BadInput as error:
                status = say(str(error))
    return status


def _runs(directory: Path) -> list[Path]:
    inside = sorted(path.parent for path in directory.glob("*/results.json"))
    return inside if inside and not (directory / "results.json").exists() else [directory]
