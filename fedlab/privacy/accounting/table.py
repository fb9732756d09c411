"""A ledger for people: what was released, about whom, and what it comes to.

Releases that differ in nothing but a number in their label are one row; clients about whom the same was released
are one row, the one that spent most first.
"""

from __future__ import annotations

import re
from dataclasses import replace

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from fedlab.privacy.accounting.composition import Composition, together
from fedlab.privacy.accounting.ledger import Ledger
from fedlab.privacy.accounting.release import Release, ranges

SHOWN = 10
"""Groups of clients that are shown; one line speaks for the rest."""
LONGEST = 40
"""Characters of a list of clients."""


def headline(ledger: Ledger) -> str:
    """Return one line: 'epsilon 0.93 of 1 at delta 1e-05, per sample (add_remove), 1 release'."""
    budget, (epsilon, delta), number = ledger.budget, ledger.spent(), len(ledger.releases)
    cap = "no cap" if budget.epsilon is None else f"of {budget.epsilon:g}"
    releases = "1 release" if number == 1 else f"{number} releases"
    return f"epsilon {epsilon:.4g} {cap} at delta {delta:g}, per {budget.unit} ({budget.relation}), {releases}"


def releases(ledger: Ledger) -> Table:
    """Return what was released, with the epsilon that each row would come to by itself."""
    times, alone = Column("times", justify="right"), Column("epsilon alone", justify="right")
    table = Table("released", times, "noise", "about clients", alone, box=SIMPLE_HEAD, pad_edge=False)
    rows: dict[Release, list[Release]] = {}
    for release in ledger.releases:
        like = replace(release, id="like", label=re.sub(r"\d+", "#", release.label))
        rows.setdefault(like, []).append(release)
    for row in rows.values():
        first = row[0].label
        label = first if row[-1].label == first else f"{first} ... {row[-1].label}"
        epsilon = together(row).epsilon(ledger.budget.delta)
        table.add_row(label, str(len(row)), noise(row[0]), about(row[0].clients), f"{epsilon:.4g}")
    return table


def groups(ledger: Ledger) -> Table:
    """Return what the clients have spent, by group."""
    number, epsilon = Column("how many", justify="right"), Column("epsilon", justify="right")
    table = Table("clients", number, epsilon, box=SIMPLE_HEAD, pad_edge=False)
    shares = [(what, whom) for what, whom in ledger.groups().items() if whom or what != Composition()]
    delta, only = ledger.budget.delta, len(shares) == 1
    for composition, clients in shares[:SHOWN]:
        names = about(tuple(clients)) if clients else "everyone" if only else "all others"
        many = str(len(clients)) if clients else ""
        table.add_row(names, many, f"{composition.epsilon(delta):.4g}")
    if rest := shares[SHOWN:]:
        many = str(sum(len(clients) for _, clients in rest))
        table.add_row("the others", many, f"at most {rest[0][0].bound(delta):.4g}")
    return table


def noise(release: Release) -> str:
    """Return the noise of a release in words: 'Gaussian m=1.1, q=0.01, 500 steps'."""
    m, q, cohort = release.noise_multiplier, release.sampling_probability, release.cohort
    words = [
        f"Gaussian m={m:.4g}" if m is not None else "",
        f"q={q:.4g}" if q < 1 else "",
        f"{cohort[0]} of {cohort[1]} drawn" if cohort is not None else "",
        "by its Renyi curve" if release.curve is not None else "",
        f"epsilon {release.epsilon:.4g}" if release.epsilon is not None else "",
        f"delta {release.delta:.4g}" if release.delta is not None else "",
        f"{release.steps} steps" if release.steps > 1 else "",
    ]
    return ", ".join(filter(None, words))


def about(clients: tuple[int, ...] | None) -> str:
    """Return clients as '0-99, 120', cut where there are too many gaps."""
    if clients is None:
        return "everyone"
    text = ranges(clients).replace(",", ", ")
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST].rpartition(',')[0]}, ... ({len(clients)})"
