"""`fedlab data list | show NAME | fetch NAME`: what there is to learn from, and getting it here.

Nothing is fetched unless asked for, and the licence is shown before anything is.
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedlab.data.dataset import Dataset
from fedlab.data.sources.catalogue import SOURCES, Listing, listing
from fedlab.data.sources.packages import fetch, is_cached


def main(argv: list[str]) -> int:
    """List the datasets, show one, or fetch some.

    Parameters
    ----------
    argv
        What follows `fedlab data`.

    Raises
    ------
    BadInput
        An unknown name, or a dataset that cannot be fetched or read.
    """
    parser = argparse.ArgumentParser(prog="fedlab data", description="Datasets: list, show, fetch.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="list | show NAME | fetch NAME...")
    actions.add_parser("list", help="every dataset, its size, licence and whether it is here")
    show = actions.add_parser("show", help="one dataset: origin, classes, split sizes, natural clients")
    show.add_argument("name", metavar="NAME")
    get = actions.add_parser("fetch", help="fetch datasets into the cache; shows the licence first")
    get.add_argument("names", metavar="NAME", nargs="+")
    chosen = parser.parse_args(argv)
    # Texts and paths may hold square brackets: no markup.
    console = Console(markup=False, highlight=False)
    if chosen.action == "list":
        console.print(_table())
    elif chosen.action == "show":
        _show(console, chosen.name)
    else:
        # All names are looked up before anything is fetched.
        for entry in [(name, listing(name)) for name in chosen.names]:
            _fetch(console, *entry)
    return 0


def _table() -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("what, under which licence")
    table.add_column("kind")
    for column in ("samples", "classes", "MB"):
        table.add_column(column, justify="right")
    table.add_column("here", justify="center")
    for name, entry in SOURCES.items():
        count, classes = (f"{n:,}" if n else "-" for n in (entry.samples, entry.classes))
        size = f"{entry.megabytes:g}" if entry.packages else "-"
        what = Text(entry.title).append(f"\n{entry.licence}", style="dim")
        table.add_row(name, what, entry.kind, count, classes, size, _presence(entry))
    return table


def _presence(entry: Listing) -> str:
    if entry.samples is None:
        return "-"
    return "yes" if all(map(is_cached, entry.packages)) else "fetch"


def _show(console: Console, name: str) -> None:
    entry = listing(name)
    facts = Table(title=name, title_justify="left", show_header=False)
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("what", entry.title)
    facts.add_row("kind", entry.kind)
    facts.add_row("origin", entry.origin)
    facts.add_row("how", entry.how)
    facts.add_row("licence", entry.licence)
    facts.add_row("config", f"source={name}")
    if _presence(entry) == "yes":
        for row in _contents(entry.source().load()):
            facts.add_row(*row)
    elif entry.packages:
        facts.add_row("here", f"no: fedlab data fetch {name} ({entry.megabytes:g} MB)")
    console.print(facts)


def _contents(dataset: Dataset) -> list[tuple[str, str]]:
    train = dataset.train
    rows = [("train, test", f"{len(train):,}, {len(dataset.test):,} samples")]
    if isinstance(train.inputs, np.ndarray):
        rows.append(("input", f"{' x '.join(map(str, train.inputs.shape[1:]))} {train.inputs.dtype}"))
    else:
        rows.append(("first", train.inputs[0]))
    rows.append(("classes", _shares(np.array(dataset.classes)[train.labels])))
    rows += [(f"natural: {group}", _shares(ids)) for group, ids in train.groups.items()]
    rows.append(("fingerprint", dataset.fingerprint))
    return rows


def _shares(names: np.ndarray) -> str:
    found, counts = np.unique(names, return_counts=True)
    return ", ".join(f"{name} {count:,}" for name, count in zip(found, counts, strict=True))


def _fetch(console: Console, name: str, entry: Listing) -> None:
    if not entry.packages:
        console.print(f"{name}: nothing to fetch ({entry.how})")
    for package in entry.packages:
        fetch(package, lambda line: console.print(line, soft_wrap=True))
