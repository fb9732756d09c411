"""Accuracy against rounds and against traffic: what the compared methods cost.

Titles are computed from the numbers drawn, so a title cannot claim what the run did not find.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from fedlab.report.style import COLOURS, DASHES, PLAIN, canvas, empty, legend_beside, styled
from fedlab.report.table import YARDSTICK, methods_of
from fedlab.report.words import human_bytes, percent

LINE = 0.2
"""Inches that a line of the legend takes."""


@dataclass
class _Curve:
    """One method: its accuracy round by round, and where it ended."""

    name: str
    final: float | None
    rounds: int
    per_client: float | None
    points: dict[int, tuple[float, float | None]] = field(default_factory=dict)  # round -> accuracy, bytes so far

    @property
    def one_shot(self) -> bool:
        return sum(number > 0 for number in self.points) <= 1


@styled
def accuracy_against_rounds(results: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> Figure:
    """Accuracy after each round; a method that needs a single one is a star.

    Args:
        results: Content of `results.json`.
        events: Events of the run; empty shows the final accuracies alone.
    """
    figure, axes = canvas(_finding(results, "rounds"))
    curves = _curves(results, events)
    for index, curve in enumerate(curves):
        rounds = [(number, accuracy) for number, (accuracy, _) in sorted(curve.points.items())]
        if curve.one_shot:
            # Before its one round a closed-form method has no head, so round 0 is no point of it.
            end = max((number for number, _ in rounds if number), default=curve.rounds)
            rounds = [(end, curve.final)]
        _draw(axes, curve, rounds, index)
    axes.set(xlabel="communication rounds", ylabel="test accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    _legend(figure, axes, curves)
    return figure


@styled
def accuracy_against_bytes(results: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> Figure:
    """Accuracy against what one client has sent and received so far.

    Args:
        results: Content of `results.json`.
        events: Events of the run; empty shows the end of each method alone.
    """
    figure, axes = canvas(_finding(results, "bytes"))
    curves = _curves(results, events)
    for index, curve in enumerate(curves):
        _draw(axes, curve, _against_bytes(curve), index)
    axes.set_xscale("log")
    axes.set(xlabel="sent and received per client (bytes, logarithmic)", ylabel="test accuracy (%)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: human_bytes(size)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _legend(figure, axes, curves)
    return figure


def _curves(results: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> list[_Curve]:
    curves = {}
    for name, values in methods_of(results).items():
        up, down = values.get("bytes_up_per_client"), values.get("bytes_down_per_client")
        per_client = None if up is None and down is None else (up or 0) + (down or 0)
        curves[name] = _Curve(name, values.get("accuracy"), values.get("rounds") or 1, per_client)
    for event in events:
        curve = curves.get(str(event.get("method")))
        if event.get("event") != "round" or curve is None or event.get("accuracy") is None:
            continue
        number = int(event["round"])
        # A run begun again in the same directory replaces the rounds that it repeats.
        curve.points = {former: point for former, point in curve.points.items() if former < number}
        sizes = [event[key] for key in ("bytes_up", "bytes_down") if event.get(key) is not None]
        curve.points[number] = float(event["accuracy"]), float(sum(sizes)) if sizes else None
    # The yardstick last: it is a plain line and takes no colour.
    return sorted(curves.values(), key=lambda curve: curve.name == YARDSTICK)


def _against_bytes(curve: _Curve) -> list[tuple[float, float | None]]:
    """(bytes per client, accuracy), from the run's totals scaled to what one client bore in the end."""
    known = [(size, accuracy) for _, (accuracy, size) in sorted(curve.points.items()) if size]
    if curve.name == YARDSTICK or curve.one_shot or not known:
        return [(curve.per_client, curve.final)] if curve.per_client else []
    scale = curve.per_client / known[-1][0] if curve.per_client else 1.0
    return [(size * scale, accuracy) for size, accuracy in known]


def _draw(axes: Axes, curve: _Curve, points: Sequence[tuple[float, float | None]], index: int) -> None:
    colour = COLOURS[index % len(COLOURS)]
    name = curve.name if len(curve.name) <= 24 else curve.name[:23] + "…"
    label = f"{name}  {percent(curve.final)}"
    if curve.name == YARDSTICK:
        if curve.final is not None:
            axes.axhline(100 * curve.final, label=label, **PLAIN)
        return
    shown = [(x, 100 * accuracy) for x, accuracy in points if accuracy is not None]
    if not shown:
        return
    x, y = zip(*shown, strict=True)
    if len(shown) == 1:
        star: dict[str, Any] = {"marker": "*", "markersize": 15, "markeredgecolor": "white", "zorder": 5}
        axes.plot(x, y, color=colour, ls="none", label=label, markeredgewidth=0.8, **star)
        return
    dash = DASHES[(index // len(COLOURS) if index >= len(COLOURS) else index) % len(DASHES)]
    axes.plot(x, y, color=colour, linestyle=dash, label=label)
    axes.plot(x[-1:], y[-1:], color=colour, marker="o", markersize=4.5)


def _legend(figure: Figure, axes: Axes, curves: Sequence[_Curve]) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        empty(figure, axes)
        return
    final = {label: curve.final or 0.0 for curve in curves for label in labels if label.startswith(curve.name[:23])}
    order = sorted(range(len(labels)), key=lambda i: -final.get(labels[i], 0.0))
    ordered = {"handles": [handles[i] for i in order], "labels": [labels[i] for i in order]}
    legend_beside(axes, **ordered, title="final accuracy", alignment="left")
    axes.margins(x=0.04)
    # Many methods: the legend must not push the axes out.
    figure.set_figheight(max(figure.get_figheight(), 0.8 + LINE * len(labels)))


def _finding(results: Mapping[str, Any], axis: str) -> str:
    """What the comparison found, in a sentence; ties at the printed precision are ties."""
    methods = methods_of(results)
    accuracies = {name: values["accuracy"] for name, values in methods.items() if values.get("accuracy") is not None}
    yardstick = accuracies.pop(YARDSTICK, None)
    if not accuracies:
        return "Accuracy against " + ("rounds" if axis == "rounds" else "traffic")
    best = max(accuracies, key=lambda name: (accuracies[name], -(methods[name].get("rounds") or 0)))
    values = methods[best]
    rounds = values.get("rounds")
    effort = "" if not rounds else " in one round" if rounds == 1 else f" after {rounds} rounds"
    if axis == "bytes":
        size = (values.get("bytes_up_per_client") or 0) + (values.get("bytes_down_per_client") or 0)
        effort = f" with {human_bytes(size)} per client" if size else ""
    if yardstick is None:
        return f"{best} ends highest{effort}" if len(accuracies) > 1 else f"{best}{effort}"
    gap = round(100 * (accuracies[best] - yardstick), 2)
    if gap == 0:
        head = values.get("head_sha256")
        same = head is not None and head == methods[YARDSTICK].get("head_sha256")
        return f"{best} {'equals the centralised solution' if same else 'is as accurate as centralised'}{effort}"
    unit = "point" if abs(gap) == 1 else "points"
    return f"{best} ends {abs(gap):.3g} {unit} {'above' if gap > 0 else 'below'} the centralised solution{effort}"
