"""`fedlab report DIR...`: write the page of each run.

A folder of runs (a sweep) stands for the runs in it. A run that cannot be shown does not keep the others
from it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.messages import say
from fedlab.errors import BadInput
from fedlab.report.page import write_page


def main(argv: list[str]) -> int:
    """Write DIR/index.html for each DIR and print its path.

    Parameters
    ----------
    argv
        The run directories.

    Returns
    -------
    int
        0, or 2 when a page could not be written.
    """
    parser = argparse.ArgumentParser(
        prog="fedlab report", description="Write a self-contained page for each run."
    )
    parser.add_argument(
        "directories", metavar="DIR", nargs="+", type=Path, help="a run directory, or a sweep's"
    )
    status = 0
    for directory in parser.parse_args(argv).directories:
        for run in _runs(directory):
            try:
                print(write_page(run))
            except BadInput as error:
                status = say(str(error))
    return status


def _runs(directory: Path) -> list[Path]:
    inside = sorted(path.parent for path in directory.glob("*/results.json"))
    return inside if inside and not (directory / "results.json").exists() else [directory]
