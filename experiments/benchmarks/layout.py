"""What a benchmark asks for, whole numbers as options, and how it shows what it has measured: tables."""

from __future__ import annotations

import argparse

from rich.table import Table


def options(doc: str | None, **numbers: int) -> argparse.ArgumentParser:
    """Return a parser that shows a module's docstring and takes these numbers."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser


def columns(title: str, names: str) -> Table:
    """Return an empty table with these columns: `<what | seconds` is words on the left and numbers on the right."""
    table = Table(title=title)
    for name in names.split("|"):
        name = name.strip()
        table.add_column(name.removeprefix("<"), justify="left" if name.startswith("<") else "right")
    return table
