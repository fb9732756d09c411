"""Figures of a run: how labels are spread, what stays the same, and how exact it is.

Titles are computed from the numbers drawn, so a title cannot claim what the run did not find.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from fedlab.report.style import COLOURS, canvas, empty, look, styled
from fedlab.report.words import percent, short_hash


@styled
def label_distribution(counts: ArrayLike) -> Figure:
    """Which classes each client holds, clients from the largest to the smallest.

    Args:
        counts: Samples of each class on each client, (k, c).
    """
    table = np.asarray(counts, dtype=np.float64)
    table = table.reshape(len(table), table.size // max(len(table), 1))
    k, c = table.shape
    sizes = table.sum(axis=1)
    # Clients of one size stand together by the class they hold most of.
    order = np.lexsort((table.argmax(axis=1) if table.size else sizes, -sizes))
    table, sizes = table[order], sizes[order]
    # An empty client has no shares; NaN leaves its column blank.
    shares = np.divide(100 * table, sizes[:, None], out=np.full_like(table, np.nan), where=sizes[:, None] > 0)
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    top, main = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.6))
    top.set_title(_spread(table))
    if table.size == 0:
        return empty(figure, main)
    top.fill_between(np.arange(k + 1) - 0.5, np.append(sizes, sizes[-1]), step="post", color="#888888", lw=0)
    top.set(ylabel="samples", ylim=(0, max(sizes.max() * 1.05, 1)))
    top.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    colours = mpl.colormaps["Blues"].with_extremes(bad="#e4e4e4")
    image = main.imshow(
        shares.T, aspect="auto", cmap=colours, vmin=0, vmax=100, interpolation="nearest", origin="lower"
    )
    main.grid(visible=False)
    if empty_clients := int((sizes == 0).sum()):
        middle = k - 0.5 - empty_clients / 2
        main.text(middle, (c - 1) / 2, "no samples", ha="center", va="center", color="#666666", clip_on=True)
    main.set(xlabel=f"clients, largest first ({k} in all)", ylabel="class")
    main.set_xticks([])
    main.yaxis.set_major_locator(MaxNLocator(min(c, 10), integer=True, min_n_ticks=1))
    figure.colorbar(image, ax=[top, main], label="share of the client's samples (%)", aspect=30, pad=0.02)
    return figure


@styled
def invariance_heatmap(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy and head of every partition: clients against heterogeneity.

    Args:
        rows: Rows, each with `clients`, `alpha` (a number or "iid"), `accuracy`, `head_sha256`.
    """
    clients = sorted({int(row["clients"]) for row in rows})
    alphas = sorted({_alpha(row["alpha"]) for row in rows})
    accuracy = np.full((len(alphas), len(clients)), np.nan)
    heads: dict[tuple[int, int], str] = {}
    for row in rows:
        cell = alphas.index(_alpha(row["alpha"])), clients.index(int(row["clients"]))
        accuracy[cell] = np.nan if row.get("accuracy") is None else 100 * row["accuracy"]
        heads[cell] = row.get("head_sha256") or ""
    common = Counter(head for head in heads.values() if head).most_common(1)
    figure = Figure(figsize=(2.6 + 1.05 * max(len(clients), 3), 1.7 + 0.62 * max(len(alphas), 2)), layout="constrained")
    axes = figure.subplots()
    axes.set_title(_sameness(heads.values()))
    if not rows:
        return empty(figure, axes)
    low, high = _limits(accuracy)
    # The light half of a scale, so that dark text reads on every cell.
    colours = LinearSegmentedColormap.from_list("light", ["#f3f8fc", "#8cc0e3"]).with_extremes(bad="white")
    image = axes.imshow(accuracy, aspect="auto", cmap=colours, vmin=low, vmax=high)
    for (row, column), head in heads.items():
        text = f"{percent(accuracy[row, column] / 100)}\n{short_hash(head, 6)}"
        axes.text(column, row, text, ha="center", va="center", color="black", fontsize=8, family="monospace")
        if common and head != common[0][0]:
            frame = Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, ec=COLOURS[1], lw=2.5)
            axes.add_patch(frame)
    axes.grid(visible=False)
    axes.set_xticks(np.arange(1, len(clients)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(alphas)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2.5)
    axes.tick_params(which="minor", length=0)
    axes.set_xticks(range(len(clients)), [str(number) for number in clients])
    axes.set_yticks(range(len(alphas)), [_alpha_name(alpha) for alpha in alphas])
    axes.set(xlabel="clients", ylabel="Dirichlet α (small: skewed)")
    figure.colorbar(image, ax=axes, label="test accuracy (%)", pad=0.02).ax.ticklabel_format(useOffset=False)
    return figure


@styled
def dummy_errors(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """How far the federated head lies from the centralised one, against the number of clients.

    Args:
        rows: Rows, each with `clients` and `error` (the sum over entries of |W - W_joint|), and perhaps
            `pairwise_error`.
    """
    rows = sorted(rows, key=lambda row: row["clients"])
    series = {"sum of statistics": "error", "pairwise law of the paper": "pairwise_error"}
    figure, axes = canvas(_worst(rows))
    if not rows:
        return empty(figure, axes)
    exact, unit = False, np.finfo(np.float64).eps
    for index, (label, key) in enumerate(series.items()):
        points = [(row["clients"], row[key]) for row in rows if row.get(key) is not None]
        exact = exact or any(error == 0 for _, error in points)
        # A logarithm has no place for an exact zero; it is drawn at the unit of float64.
        values = [(k, max(float(error), unit)) for k, error in points]
        if values:
            axes.plot(*zip(*values, strict=True), label=label, **look(index, "os", 5))
    note = "unit of float64 (and exact zeros)" if exact else "unit of float64"
    axes.axhline(unit, color="#888888", linestyle=(0, (2, 2)), linewidth=1.2, label=note)
    axes.set(xscale="log", yscale="log", xlabel="clients (logarithmic)", ylabel="sum of differences to the joint head")
    ticks = sorted({row["clients"] for row in rows})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=8.5)
    return figure


@styled
def seconds_against_clients(lines: Mapping[str, Mapping[int, float]]) -> Figure:
    """How a round's seconds grow with its clients, both axes logarithmic.

    Args:
        lines: Seconds by number of clients, for every engine and workload.
    """
    figure, axes = canvas("Seconds per round against clients")
    for index, (label, points) in enumerate(lines.items()):
        clients = sorted(points)
        axes.plot(clients, [points[k] for k in clients], label=label, **look(index, "os^v"))
    axes.set(xscale="log", yscale="log", xlabel="clients (logarithmic)", ylabel="seconds (logarithmic)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=8.5)
    return figure


def _spread(table: np.ndarray) -> str:
    k, c = table.shape
    if table.size == 0:
        return "No clients"
    held = np.median((table > 0).sum(axis=1))
    empty = int((table.sum(axis=1) == 0).sum())
    more = f"; {empty} of {k} hold no sample" if empty else ""
    return f"The median client holds {held:g} of {c} classes{more}"


def _sameness(heads: Iterable[str]) -> str:
    known = [head for head in heads if head]
    if not known:
        return "Accuracy of every partition"
    different = len(set(known))
    if different == 1:
        return "Every partition gives the same head, bit for bit" if len(known) > 1 else "One partition, one head"
    return f"{len(known)} partitions give {different} different heads"


def _worst(rows: Sequence[Mapping[str, Any]]) -> str:
    errors = [float(row["error"]) for row in rows if row.get("error") is not None]
    if not errors:
        return "Difference to the centralised head"
    return f"The sum stays within {max(errors):.1e} of the centralised head up to {rows[-1]['clients']} clients"


def _alpha(value: Any) -> float:
    """A sortable alpha: iid is the limit of an infinite one."""
    return math.inf if str(value).lower() == "iid" else float(value)


def _alpha_name(alpha: float) -> str:
    return "iid" if math.isinf(alpha) else f"{alpha:g}"


def _limits(accuracy: np.ndarray) -> tuple[float, float]:
    """Colour limits that do not blow up a difference smaller than a point."""
    known = accuracy[np.isfinite(accuracy)]
    if known.size == 0:
        return 0.0, 100.0
    slack = max(0.0, 1.0 - float(known.max() - known.min())) / 2
    return float(known.min()) - slack, float(known.max()) + slack
