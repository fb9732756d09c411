"""Figures and samples of a run that writes texts: what they are worth, what noise costs, what was kept on the way.

Titles are computed from the numbers drawn, so a title cannot claim what the run did not find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from fedlab.report.style import COLOURS, PLAIN, canvas, empty, legend_beside, look, styled
from fedlab.report.table import Cells

Rows = Sequence[Mapping[str, Any]]
"""Each with `variant`, `epsilon` (None without noise), `seed`, `domain`, `labelled`, `local`, `accuracy`, `gain`."""

ERRORS = {"elinewidth": 1, "capsize": 2, "ecolor": "#555555"}


@styled
def gain_per_domain(rows: Rows) -> Figure:
    """Points over local training, for each domain and number of labelled texts: mean and spread over the seeds.

    Args:
        rows: Rows of a study; the first variant and epsilon are drawn.
    """
    mine = [r for r in rows if (r["variant"], r["epsilon"]) == (rows[0]["variant"], rows[0]["epsilon"])]
    figure, axes = canvas(_gained(mine))
    if not mine:
        return empty(figure, axes)
    domains = list(dict.fromkeys(row["domain"] for row in mine))
    counts = sorted({row["labelled"] for row in mine})
    width = 0.8 / len(counts)
    for index, labelled in enumerate(counts):
        groups = [
            [100 * row["gain"] for row in mine if (row["domain"], row["labelled"]) == (domain, labelled)]
            for domain in domains
        ]
        middle = np.array([np.mean(group) for group in groups])
        spans = np.abs(np.array([[min(group), max(group)] for group in groups]).T - middle)
        places = np.arange(len(domains)) + width * (index - (len(counts) - 1) / 2)
        style: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "label": f"{labelled} labelled"}
        axes.bar(places, middle, 0.9 * width, yerr=spans, error_kw=ERRORS, **style)
    axes.axhline(0, color="#888888", lw=1)
    axes.set_xticks(range(len(domains)), domains)
    axes.set_ylabel("points over local training")
    legend_beside(axes)
    return figure


@styled
def accuracy_against_epsilon(rows: Rows) -> Figure:
    """Mean accuracy over domains and seeds against epsilon, a line for each variant, beside local training.

    Args:
        rows: Rows of a study; of several numbers of labelled texts the smallest but one is drawn.
    """
    figure, axes = canvas("Accuracy against epsilon")
    if not rows:
        return empty(figure, axes)
    counts = sorted({row["labelled"] for row in rows})
    labelled = counts[min(1, len(counts) - 1)]
    mine = [row for row in rows if row["labelled"] == labelled]
    finite = sorted({row["epsilon"] for row in mine if row["epsilon"] is not None})
    free = 2 * finite[-1] if finite else 1.0  # where "no noise" stands on the axis
    ticks = [*finite, *([free] if any(row["epsilon"] is None for row in mine) else [])]
    for index, variant in enumerate(dict.fromkeys(row["variant"] for row in mine)):
        cells: dict[float, list[float]] = {}
        for row in mine:
            if row["variant"] == variant:
                cells.setdefault(row["epsilon"] or free, []).append(100 * row["accuracy"])
        places = sorted(cells)
        axes.plot(places, [np.mean(cells[place]) for place in places], label=variant, **look(index, "o"))
    local = 100 * float(np.mean([row["local"] for row in mine]))
    axes.axhline(local, label="local training", **PLAIN)
    axes.set_title(f"{labelled} labelled texts: accuracy against epsilon")
    axes.set(xlabel="epsilon (logarithmic)", ylabel="accuracy, mean over domains (%)", xscale="log")
    axes.set_xticks(ticks, [f"{tick:g}" if tick in finite else "none" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    legend_beside(axes)
    return figure


@styled
def pipeline(cells: Rows) -> Figure:
    """How many texts each stage took in and kept.

    Args:
        cells: Cells of a study, each with `stages`; the first is drawn.
    """
    stages = cells[0]["stages"] if cells else []
    figure, axes = canvas(_kept(stages))
    if not stages:
        return empty(figure, axes)
    names = [stage["stage"] for stage in stages]
    axes.barh(names, [stage["came"] for stage in stages], color="#d0d4d9", label="new texts, or all before a vote")
    axes.barh(names, [stage["kept"] for stage in stages], height=0.4, color=COLOURS[0], label="in the pool after it")
    axes.invert_yaxis()
    axes.set_xlabel("texts")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncol=2)
    return figure


@styled
def exposure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Mean exposure of secrets that were put among private texts, beside those that never were, at every epsilon.

    Args:
        rows: Rows, each with `epsilon` (None without noise), `exposure`, `exposure of others` and `most`, in bits.
    """
    figure, axes = canvas(_exposed(rows))
    if not rows:
        return empty(figure, axes)
    places = np.arange(len(rows))
    kinds = {"exposure": "put among private texts", "exposure of others": "never there"}
    for side, (name, label) in enumerate(kinds.items()):
        axes.bar(places + 0.4 * side - 0.2, [row[name] for row in rows], 0.36, color=COLOURS[side], label=label)
    axes.axhline(1 / np.log(2), color="#888888", lw=1, ls="--", label="chance")
    axes.axhline(rows[0]["most"], color="#888888", lw=1, label="known by heart")
    axes.set_xticks(places, [_noise(row) for row in rows])
    axes.set_ylabel("exposure, bits")
    legend_beside(axes)
    return figure


def sample_cells(study: Mapping[str, Any]) -> Cells | None:
    """Headers and rows of some texts after each stage of the first cell; None where a study has none."""
    cells = study.get("cells") or []
    rows = [
        [str(stage["stage"]), *map(str, text)]
        for stage in (cells[0].get("stages") or [] if cells else [])
        for text in stage["samples"]
    ]
    return (["stage", "domain", "label", "text"], rows) if rows else None


def _gained(rows: Rows) -> str:
    if not rows:
        return "Points over local training"
    few = min(row["labelled"] for row in rows)
    gain = 100 * float(np.mean([row["gain"] for row in rows if row["labelled"] == few]))
    return f"{gain:+.1f} points over local training with {few} labelled texts ({_noise(rows[0])})"


def _exposed(rows: Rows) -> str:
    def noise(epsilon: float | None) -> str:
        return "without noise" if epsilon is None else f"at epsilon {epsilon:g}"

    bits = [f"{row['exposure']:.1f} bits {noise(row['epsilon'])}" for row in rows]
    return f"Exposure of secrets: {', '.join(bits)}" if bits else "Exposure of secrets"


def _noise(row: Mapping[str, Any]) -> str:
    return "no noise" if row["epsilon"] is None else f"epsilon {row['epsilon']:g}"


def _kept(stages: Rows) -> str:
    if not stages:
        return "Texts, stage by stage"
    # Only what was written came from outside; an election takes from the pool.
    written = sum(stage["came"] for stage in stages if not str(stage["stage"]).startswith("elected"))
    return f"{stages[-1]['kept']} of {written} written texts reach the clients"
