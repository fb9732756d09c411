"""The one look of all figures.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; shapes and dashes repeat what they
say. Figures are drawn on `Figure` itself, never through pyplot: no window system, no global state.
"""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#222222"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (7, 1.5, 1.5, 1.5)), (0, (2.5, 1.2)))
PLAIN: dict[str, Any] = {"color": "#555555", "ls": (0, (4, 3)), "lw": 1.3}
"""How the yardstick is drawn: without colour."""

STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#888888",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.dpi": 160,
    "figure.facecolor": "white",
    "font.size": 9.5,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    # A method may be called anything; a dollar in its name is no formula.
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


styled = mpl.rc_context(STYLE)
"""Decorator of a function that draws a figure."""


def look(index: int, markers: str = "", size: float = 4) -> dict[str, Any]:
    """Return how the line of this index is drawn: its colour, its dashes, and its marker among `markers`."""
    marked = {"marker": markers[index % len(markers)], "markersize": size} if markers else {}
    return {"color": COLOURS[index % len(COLOURS)], "ls": DASHES[index % len(DASHES)], **marked}


def legend_beside(axes: Axes, **options: Any) -> None:
    """Put the legend to the right of the plot."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), **options)


def canvas(title: str) -> tuple[Figure, Axes]:
    """A figure of the usual size with one titled plot."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def empty(figure: Figure, *plots: Axes) -> Figure:
    """Return a figure whose plots say that there is nothing to see, rather than fail or show bare axes."""
    for axes in plots:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "nothing was recorded", ha="center", va="center", transform=axes.transAxes, color="#666666")
    return figure
