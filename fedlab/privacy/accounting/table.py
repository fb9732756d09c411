"""A ledger for people: what was released, about whom, and what it comes to.

Releases that differ in nothing but a number in their label are one row; clients about whom the same was released
are one row, the one that spent most first.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedlab.privacy.accounting.composition import Composition
from fedlab.privacy.accounting.ledger import Ledger
from fedlab.privacy.accounting.release import Release, ranges

SHOWN = 10
"""Groups of clients that are shown; one line speaks for the rest."""
LONGEST = 40
"""Characters of a list of clients."""


def headline(ledger: Ledger) -> str:
    """Return one line: 'epsilon 0.93 of 1 at delta 1e-05, per sample (add_remove), 1 release'."""
    promise, (epsilon, delta), number = ledger.promise, ledger.spent(), len(ledger.releases)
    cap = "no cap" if promise.epsilon is None else f"of {promise.epsilon:g}"
    releases = "1 release" if number == 1 else f"{number} releases"
    return (
        f"epsilon {epsilon:.4g} {cap} at delta {delta:g}, per {promise.unit} ({promise.relation}), {releases}"
    )


def releases(ledger: Ledger) -> Table:
    """Return what was released, with the epsilon that each row would come to by itself."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("released")
    table.add_column("times", justify="right")
    table.add_column("noise")
    table.add_column("about clients")
    table.add_column("epsilon alone", justify="right")
    rows: dict[Release, list[Release]] = {}
    for release in ledger.releases:
        like = replace(release, id="like", label=re.sub(r"\d+", "#", release.label))
        rows.setdefault(like, []).append(release)
    for found in rows.values():
        first = found[0].label
        label = first if found[-1].label == first else f"{first} ... {found[-1].label}"
        alone = sum((Composition.of(release) for release in found), Composition())
        epsilon = alone.epsilon(ledger.promise.delta)
        table.add_row(label, str(len(found)), noise(found[0]), about(found[0].clients), f"{epsilon:.4g}")
    return table


def groups(ledger: Ledger) -> Table:
    """Return what the clients have spent, by group."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("clients")
    table.add_column("how many", justify="right")
    table.add_column("epsilon", justify="right")
    found = [(what, whom) for what, whom in ledger.groups().items() if whom or what != Composition()]
    delta, only = ledger.promise.delta, len(found) == 1
    for composition, clients in found[:SHOWN]:
        names = about(tuple(clients)) if clients else "everyone" if only else "all others"
        many = str(len(clients)) if clients else ""
        table.add_row(names, many, f"{composition.epsilon(delta):.4g}")
    if rest := found[SHOWN:]:
        many = str(sum(len(clients) for _, clients in rest))
        table.add_row("the others", many, f"at most {rest[0][0].bound(delta):.4g}")
    return table


def noise(release: Release) -> str:
    """Return the noise of a release in words: 'Gaussian m=1.1, q=0.01, 500 steps'."""
    told: list[Any] = []
    if release.noise_multiplier is not None:
        told.append(f"Gaussian m={release.noise_multiplier:.4g}")
    if release.sampling_probability < 1:
        told.append(f"q={release.sampling_probability:.4g}")
    if release.cohort is not None:
        told.append(f"{release.cohort[0]} of {release.cohort[1]} drawn")
    if release.curve is not None:
        told.append("by its Renyi curve")
    if release.epsilon is not None:
        told.append(f"epsilon {release.epsilon:.4g}")
    if release.delta is not None:
        told.append(f"delta {release.delta:.4g}")
    if release.steps > 1:
        told.append(f"{release.steps} steps")
    return ", ".join(told)


def about(clients: tuple[int, ...] | None) -> str:
    """Return clients as '0-99, 120', cut where there are too many gaps."""
    if clients is None:
        return "everyone"
    text = ranges(clients).replace(",", ", ")
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST].rpartition(',')[0]}, ... ({len(clients)})"
