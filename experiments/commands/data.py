"""`fedlab data list | show NAME | fetch NAME`: what there is to learn from, and getting it here.

Nothing is fetched unless asked for, and the licence is shown before anything is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from experiments.commands.words import Words, console, facts

if TYPE_CHECKING:
    from fedlab.data.dataset import Dataset
    from fedlab.data.sources.catalogue import Listing


def _complete(ctx: click.Context, param: click.Parameter, word: str) -> list[str]:
    from fedlab.data.sources.catalogue import SOURCES

    return [name for name in SOURCES if name.startswith(word)]


@click.group("data", cls=Words)
def command() -> None:
    """List, show or fetch datasets: fedlab data list | show NAME | fetch NAME."""


@command.command("list")
def catalogue() -> None:
    """List every dataset, its size, licence and whether it is here."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table
    from rich.text import Text

    from fedlab.data.sources.catalogue import SOURCES

    words = (Column("name", no_wrap=True), "what, under which licence", "kind")
    sizes = (Column(name, justify="right") for name in ("samples", "classes", "MB"))
    table = Table(*words, *sizes, Column("here", justify="center"), box=SIMPLE_HEAD, pad_edge=False)
    for name, entry in SOURCES.items():
        count, classes = (f"{n:,}" if n else "-" for n in (entry.samples, entry.classes))
        size = f"{entry.megabytes:g}" if entry.packages else "-"
        what = Text(entry.title).append(f"\n{entry.licence}", style="dim")
        table.add_row(name, what, entry.kind, count, classes, size, _presence(entry))
    console().print(table)


@command.command("show")
@click.argument("name", shell_complete=_complete)
def show(name: str) -> None:
    """Show one dataset: origin, classes, split sizes, natural clients."""
    from fedlab.data.sources.catalogue import listing

    entry = listing(name)
    rows = [("what", entry.title), *((key, getattr(entry, key)) for key in ("kind", "origin", "how", "licence"))]
    rows.append(("config", f"source={name}"))
    if _presence(entry) == "yes":
        rows += _contents(entry.source().load())
    elif entry.packages:
        rows.append(("here", f"no: fedlab data fetch {name} ({entry.megabytes:g} MB)"))
    console().print(facts(rows, title=name, title_justify="left"))


@command.command("fetch")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=_complete)
def fetch(names: Sequence[str]) -> None:
    """Fetch datasets into the cache; shows the licence first."""
    from fedlab.data.sources import packages
    from fedlab.data.sources.catalogue import listing

    lines = console()
    # All names are looked up before anything is fetched.
    for name, entry in [(name, listing(name)) for name in names]:
        if not entry.packages:
            lines.print(f"{name}: nothing to fetch ({entry.how})")
        for package in entry.packages:
            packages.fetch(package, lambda line: lines.print(line, soft_wrap=True))


def _presence(entry: Listing) -> str:
    from fedlab.data.sources.packages import is_cached

    if entry.samples is None:
        return "-"
    return "yes" if all(map(is_cached, entry.packages)) else "fetch"


def _contents(dataset: Dataset) -> list[tuple[str, str]]:
    import numpy as np

    def shares(names: Any) -> str:
        values, counts = np.unique(names, return_counts=True)
        return ", ".join(f"{value} {count:,}" for value, count in zip(values, counts, strict=True))

    train = dataset.train
    rows = [("train, test", f"{len(train):,}, {len(dataset.test):,} samples")]
    if isinstance(train.inputs, np.ndarray):
        rows.append(("input", f"{' x '.join(map(str, train.inputs.shape[1:]))} {train.inputs.dtype}"))
    else:
        rows.append(("first", train.inputs[0]))
    rows.append(("classes", shares(np.array(dataset.classes)[train.labels])))
    rows += [(f"natural: {group}", shares(ids)) for group, ids in train.groups.items()]
    return [*rows, ("fingerprint", dataset.fingerprint)]
