"""Figures of a run over a stream: accuracy after each step, what became of each task, the long tail.

Each draws `results.json`'s `methods{name: {metrics: {steps: [...], ...}}}`. Titles are computed from the
numbers drawn, so a title cannot claim what the run did not find.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedlab.report.style import PLAIN, canvas, empty, legend_beside, look, styled
from fedlab.report.table import YARDSTICK, methods_of, streamed
from fedlab.report.words import percent

MOST = 6
"""Task matrices side by side; more would be too small to read."""


@styled
def accuracy_after_each_step(results: Mapping[str, Any]) -> Figure:
    """Accuracy over the classes exposed so far, after each step, for every method.

    Args:
        results: Content of `results.json`.
    """
    runs = streamed(results)
    figure, axes = canvas(_ending(results))
    if not runs:
        return empty(figure, axes)
    # The yardstick last, plain and without colour; others lie on it where they equal it.
    for index, name in enumerate(sorted(runs, key=lambda name: name == YARDSTICK)):
        drawn = 100 * _curve(runs[name])
        label = f"{name}  {percent(runs[name].get('average_accuracy'))}"
        style = PLAIN if name == YARDSTICK else look(index)
        axes.plot(range(1, len(drawn) + 1), drawn, label=label, **style)
    axes.set(xlabel="steps", ylabel="accuracy over exposed classes (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend_beside(axes, title="average accuracy", alignment="left")
    return figure


@styled
def accuracy_against_samples(results: Mapping[str, Any]) -> Figure:
    """Accuracy against the samples met so far, for the same stream cut into few or many phases.

    Args:
        results: Content of `results.json`; every way of cutting is a method of it.
    """
    runs = streamed(results)
    figure, axes = canvas(_same_end(results))
    if not runs:
        return empty(figure, axes)
    for index, (name, metrics) in enumerate(runs.items()):
        samples = [step["samples"] for step in metrics["steps"]]
        every = max(1, len(samples) // 20)
        axes.plot(samples, 100 * _curve(metrics), label=name, markevery=every, **look(index, "os^vD"))
    axes.set(xlabel="samples met", ylabel="accuracy (%)")
    axes.legend(loc="lower right")
    return figure


@styled
def task_matrices(results: Mapping[str, Any]) -> Figure:
    """Accuracy on each task after each step: a column that fades is a task forgotten.

    Args:
        results: Content of `results.json`.
    """
    runs = dict(list(streamed(results).items())[:MOST])
    if not runs:
        return empty(*canvas("Accuracy on each task"))
    columns = min(len(runs), 3)
    lines = -(-len(runs) // columns)
    figure = Figure(figsize=(1.2 + 2.6 * columns, 0.9 + 2.6 * lines), layout="constrained")
    figure.suptitle(_forgotten(runs), x=0.01, ha="left", fontsize=11, fontweight="bold")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    image = None
    for axes, (name, metrics) in zip(grid.flat, runs.items(), strict=False):
        table = np.array([step["tasks"] for step in metrics["steps"]], dtype=np.float64)
        image = axes.imshow(100 * table, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        axes.set_title(name, fontsize=9.5)
        axes.grid(visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    for axes in list(grid.flat)[len(runs) :]:
        axes.set_axis_off()
    figure.supxlabel("task judged", fontsize=9.5)
    figure.supylabel("after step", fontsize=9.5)
    if image is not None:
        figure.colorbar(image, ax=grid, label="accuracy (%)", pad=0.02)
    return figure


@styled
def accuracy_of_each_class(results: Mapping[str, Any]) -> Figure:
    """Accuracy of each class at the end, classes from the most to the fewest training samples.

    Args:
        results: Content of `results.json`.
    """
    runs = streamed(results)
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    top, main = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.6))
    top.set_title(_tail(runs))
    if not runs:
        return empty(figure, main)
    counts = np.array(next(iter(runs.values()))["class_counts"], dtype=np.float64)
    order = np.argsort(-counts, kind="stable")
    places = np.arange(1, len(order) + 1)
    top.bar(places, np.maximum(counts[order], 0.5), color="#888888", width=0.8)
    top.set(yscale="log", ylabel="samples")
    for index, (name, metrics) in enumerate(runs.items()):
        share = np.array(metrics["class_accuracy"], dtype=np.float64)[order]
        label = f"{name}  {percent(metrics.get('balanced_accuracy'))}"
        main.plot(places, 100 * share, **look(index, "os^vD"), label=label)
    main.set(xlabel="classes, most samples first", ylabel="accuracy (%)", ylim=(-3, 103))
    main.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend_beside(main, title="balanced accuracy", alignment="left")
    return figure


def _curve(metrics: Mapping[str, Any]) -> np.ndarray:
    """Accuracy after each step; NaN, a gap, where there was nothing to judge yet."""
    return np.array([step["accuracy"] for step in metrics["steps"]], dtype=np.float64)


def _same_end(results: Mapping[str, Any]) -> str:
    heads = [values.get("head_sha256") for values in methods_of(results).values()]
    if len(heads) < 2:
        return "Accuracy as samples come"
    different = len(set(heads))
    end = "one head, bit for bit" if different == 1 else f"{different} different heads"
    return f"{len(heads)} ways to cut the stream end with {end}"


def _ending(results: Mapping[str, Any]) -> str:
    ends = {name: v.get("accuracy") for name, v in methods_of(results).items() if name in streamed(results)}
    yardstick = ends.pop(YARDSTICK, None)
    known = {name: accuracy for name, accuracy in ends.items() if accuracy is not None}
    if not known:
        return "Accuracy after each step"
    best = max(known, key=lambda name: known[name])
    if yardstick is None:
        return f"{best} ends highest" if len(known) > 1 else f"{best} ends at {percent(known[best])}"
    gap = round(100 * (known[best] - yardstick), 2)
    if gap == 0:
        return f"{best} ends where one machine with all samples ends"
    return f"{best} ends {abs(gap):.3g} points {'above' if gap > 0 else 'below'} one machine with all samples"


def _forgotten(runs: Mapping[str, Mapping[str, Any]]) -> str:
    known = {name: m["forgetting"] for name, m in runs.items() if m.get("forgetting") is not None}
    if not known:
        return "Accuracy on each task"
    least, most = min(known, key=lambda name: known[name]), max(known, key=lambda name: known[name])
    others = "" if known[least] == known[most] else f", {most} {100 * known[most]:.3g}"
    return f"{least} forgets {100 * known[least]:.3g} points of a task{others}"


def _tail(runs: Mapping[str, Mapping[str, Any]]) -> str:
    known = {name: m["balanced_accuracy"] for name, m in runs.items() if m.get("balanced_accuracy")}
    if not known:
        return "Accuracy of each class"
    best = max(known, key=lambda name: known[name])
    return f"{best} is the most even over classes: {percent(known[best])} balanced"
