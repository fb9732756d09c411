"""Figures of privacy: what attacks get, and what noise costs, against epsilon.

Titles are computed from the numbers drawn, so a title cannot claim what the run did not find.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from fedlab.report.style import DASHES, PLAIN, canvas, empty, legend_beside, look, styled
from fedlab.report.words import percent

MARKERS = "os^vDPX"
NOTHING_LEFT = 0.05
"""Below so small a share of what could be learnt an attack is as good as a guess, in a title."""


@styled
def attack_success(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """What an attack gets beyond a guess: of uploads without noise on the left, against epsilon on the right.

    Args:
        rows: Rows, each with `attack`, `view`, `epsilon` (None without noise), `leaked`, and its interval `low`,
            `high`.
    """
    attacks = _values(rows, "attack")
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.25))
    figure.suptitle(_protection(rows), x=0.01, ha="left", fontsize=11, fontweight="bold")
    plain = [row for row in rows if row["epsilon"] is None]
    noisy = [row for row in rows if row["epsilon"] is not None]
    if not rows:
        return empty(figure, left, right)
    views, trusts = _values(plain, "view"), _values(noisy, "view")
    entries = []
    for index, attack in enumerate(attacks):
        style = look(index, MARKERS, 5)
        del style["ls"]
        entries.append(Line2D([], [], ls="", label=attack, **style))
        points = [row for row in plain if row["attack"] == attack]
        # Attacks stand side by side in a view, or they would hide each other at 0 and at 1.
        shift = 0.09 * (index - (len(attacks) - 1) / 2)
        _points(left, [views.index(row["view"]) + shift for row in points], points, ls="", **style)
        for trust, dashes in zip(trusts, DASHES, strict=False):
            line = [row for row in noisy if (row["attack"], row["view"]) == (attack, trust)]
            line.sort(key=lambda row: row["epsilon"])
            _points(right, [row["epsilon"] for row in line], line, ls=dashes, **style)
    left.set_xticks(range(len(views)), views, rotation=30, ha="right")
    left.set(ylabel="learnt beyond a guess (0 nothing, 1 everything)", title="no noise")
    right.set(xlabel="epsilon (logarithmic)", title="noise")
    _epsilons(right, (row["epsilon"] for row in noisy))
    for axes in (left, right):
        axes.axhline(0, color="#888888", lw=1, zorder=0)
    for trust, dashes in zip(trusts, DASHES, strict=False):
        entries.append(Line2D([], [], color="#555555", ls=dashes, label=trust))
    figure.legend(handles=entries, loc="outside right center", fontsize=8)
    return figure


@styled
def accuracy_against_epsilon(rows: Sequence[Mapping[str, Any]], by: str = "trust") -> Figure:
    """What noise costs: mean accuracy over the seeds, and their spread, beside the head without noise.

    Args:
        rows: Rows, each with `epsilon` (None without noise), `seed`, `accuracy`, and a setting that has a line of its
            own.
        by: Name of that setting.
    """
    noisy = [row for row in rows if row["epsilon"] is not None]
    plain = [100 * row["accuracy"] for row in rows if row["epsilon"] is None]
    figure, axes = canvas(_cost(rows, by))
    if not noisy:
        return empty(figure, axes)
    for index, name in enumerate(dict.fromkeys(_line(row, by) for row in noisy)):
        mine = [row for row in noisy if _line(row, by) == name]
        epsilons = sorted({row["epsilon"] for row in mine})
        groups = [[100 * row["accuracy"] for row in mine if row["epsilon"] == e] for e in epsilons]
        style = look(index, MARKERS, 4.5)
        axes.plot(epsilons, [np.mean(group) for group in groups], label=name, **style)
        low, high = [min(group) for group in groups], [max(group) for group in groups]
        axes.fill_between(epsilons, low, high, color=style["color"], alpha=0.15, lw=0)
    if plain:
        mean = float(np.mean(plain))
        axes.axhline(mean, label=f"no noise  {percent(mean / 100)}", **PLAIN)
    axes.set(xlabel="epsilon (logarithmic)", ylabel="test accuracy (%)")
    _epsilons(axes, (row["epsilon"] for row in noisy))
    legend_beside(axes)
    return figure


def _points(axes: Axes, x: Sequence[float], rows: Sequence[Mapping[str, Any]], **look: Any) -> None:
    """Draw rows with their intervals."""
    if not rows:
        return
    value, low, high = (np.array([row[key] for row in rows], float) for key in ("leaked", "low", "high"))
    spans = np.maximum(0, [value - low, high - value])
    axes.errorbar(x, value, spans, elinewidth=1, capsize=2, lw=1.4, **look)


def _values(rows: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def _line(row: Mapping[str, Any], by: str) -> str:
    # A projection is a setting with a width: two widths are two lines.
    name, width = str(row[by]), row.get("width")
    return name if width is None or str(width) in name else f"{name}, {width}"


def _epsilons(axes: Axes, epsilons: Iterable[float]) -> None:
    ticks = sorted(set(epsilons))
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _protection(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the best attack on features and the best of all get, without and with protection."""
    if not rows:
        return "No attack was run"

    def best(wanted: Sequence[Mapping[str, Any]]) -> str:
        share = max(row["leaked"] for row in wanted)
        return "nothing" if share < NOTHING_LEFT else f"{share:.2f}"

    plain = [row for row in rows if row["view"] == "plain"]
    least = min((row["epsilon"] for row in rows if row["epsilon"] is not None), default=None)
    parts = [f"{best(plain)} of 1 from plain uploads"] if plain else []
    if least is not None:
        parts.append(f"{best([row for row in rows if row['epsilon'] == least])} at epsilon {least:g}")
    return f"The best attack gets {', '.join(parts)}" if parts else "What attacks get beyond a guess"


def _cost(rows: Sequence[Mapping[str, Any]], by: str) -> str:
    """How many points the best line loses at the smallest epsilon."""
    plain = [row["accuracy"] for row in rows if row["epsilon"] is None]
    noisy = [row for row in rows if row["epsilon"] is not None]
    if not plain or not noisy:
        return "Accuracy against epsilon"
    least = min(row["epsilon"] for row in noisy)
    lines: dict[str, list[float]] = {}
    for row in noisy:
        if row["epsilon"] == least:
            lines.setdefault(_line(row, by), []).append(row["accuracy"])
    means = {name: float(np.mean(accuracies)) for name, accuracies in lines.items()}
    name = max(means, key=lambda key: means[key])
    lost = 100 * (float(np.mean(plain)) - means[name])
    change = f"loses {lost:.1f} points" if lost > 0 else "loses nothing"
    return f"{name} {change} at epsilon {least:g}"
