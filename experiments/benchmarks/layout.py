"""What benchmarks share: whole numbers as options, a stopwatch, and tables of what was measured."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from rich.table import Column, Table

P = ParamSpec("P")
T = TypeVar("T")


def options(doc: str | None, **numbers: int) -> argparse.ArgumentParser:
    """Return a parser that shows a module's docstring and takes these numbers."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser


def columns(title: str, names: str) -> Table:
    """Return an empty table with these columns: `<what | seconds` is words on the left and numbers on the right."""
    heads = map(str.strip, names.split("|"))
    return Table(*(Column(h.removeprefix("<"), justify="left" if h[0] == "<" else "right") for h in heads), title=title)


def timed(work: Callable[P, T], *args: P.args, **options: P.kwargs) -> tuple[T, float]:
    """Return what `work` returns for these arguments, and its seconds."""
    started = time.perf_counter()
    result = work(*args, **options)
    return result, time.perf_counter() - started
