"""Figures of a stream: they draw what `results.json` holds, and their titles follow the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from fedlab.report import stream
from fedlab.report.result import png
from fedlab.report.table import method_cells, sweep_cells


def told(accuracies, tasks, balanced, forgetting):
    steps = [
        {"accuracy": a, "tasks": row, "samples": 10 * (step + 1)}
        for step, (a, row) in enumerate(zip(accuracies, tasks, strict=True))
    ]
    return {
        "accuracy": accuracies[-1],
        "head_sha256": f"{accuracies[-1]:f}",
        "metrics": {
            "steps": steps,
            "average_accuracy": float(np.mean(accuracies)),
            "forgetting": forgetting,
            "balanced_accuracy": balanced,
            "class_accuracy": [0.9, 0.2, 1.0],
            "class_counts": [10, 1, 100],
        },
    }


@pytest.fixture
def streamed():
    kept = told([1.0, 0.8], [[1.0, None], [0.9, 0.7]], 0.8, 0.1)
    lost = told([1.0, 0.5], [[1.0, None], [0.0, 1.0]], 0.5, 1.0)
    return {"methods": {"acil": kept, "finetune": lost, "centralised": kept}}


def title(figure):
    return figure.axes[0].get_title(loc="left")


def test_accuracy_after_each_step_draws_every_method(streamed):
    figure = stream.accuracy_after_each_step(streamed)
    lines = {str(line.get_label()).split()[0]: line for line in figure.axes[0].lines}
    assert set(lines) == {"acil", "finetune", "centralised"}
    assert np.asarray(lines["finetune"].get_ydata()).tolist() == [100, 50]
    assert title(figure) == "acil ends where one machine with all samples ends"
    assert png(figure).startswith(b"\x89PNG")


def test_the_title_follows_the_numbers(streamed):
    streamed["methods"]["centralised"] = streamed["methods"]["finetune"]
    assert title(stream.accuracy_after_each_step(streamed)) == (
        "acil ends 30 points above one machine with all samples"
    )
    del streamed["methods"]["centralised"]
    assert title(stream.accuracy_after_each_step(streamed)) == "acil ends highest"
    del streamed["methods"]["finetune"]
    assert title(stream.accuracy_after_each_step(streamed)) == "acil ends at 80.00 %"


def test_a_step_before_there_was_a_model_is_a_gap(streamed):
    streamed["methods"]["acil"]["metrics"]["steps"][0]["accuracy"] = None
    figure = stream.accuracy_after_each_step(streamed)
    line = next(line for line in figure.axes[0].lines if str(line.get_label()).startswith("acil"))
    drawn = np.asarray(line.get_ydata())
    assert np.isnan(drawn[0]) and drawn[1] == 80


def test_ways_to_cut_a_stream_are_drawn_against_samples(streamed):
    figure = stream.accuracy_against_samples(streamed)
    line = figure.axes[0].lines[0]
    assert np.asarray(line.get_xdata()).tolist() == [10, 20]
    assert title(figure) == "3 ways to cut the stream end with 2 different heads"
    del streamed["methods"]["finetune"]
    assert title(stream.accuracy_against_samples(streamed)) == (
        "2 ways to cut the stream end with one head, bit for bit"
    )
    assert png(figure).startswith(b"\x89PNG")


def test_a_table_of_a_stream_has_its_columns(streamed):
    headers, rows = method_cells(streamed)
    at = {header: place for place, header in enumerate(headers)}
    assert [row[at["average"]] for row in rows] == ["90.00 %", "75.00 %", "90.00 %"]
    assert [row[at["forgetting"]] for row in rows] == ["10.00", "100.00", "10.00"]
    assert [row[at["balanced"]] for row in rows] == ["80.00 %", "50.00 %", "80.00 %"]


def test_a_sweep_over_streams_has_them_too():
    rows = [{"method": "acil", "accuracy": 0.8, "average": 0.9, "balanced": None}, {"method": "afl", "accuracy": 0.7}]
    headers, cells = sweep_cells(rows)
    assert headers == ["method", "accuracy", "average", "head", "seconds"]
    assert [row[2] for row in cells] == ["90.00 %", "—"]


def test_a_task_not_yet_judged_is_blank(streamed):
    figure = stream.task_matrices(streamed)
    (image,) = figure.axes[0].images
    drawn = np.asarray(image.get_array(), dtype=float)
    assert drawn[1].tolist() == pytest.approx([90, 70])
    assert np.isnan(drawn[0, 1])
    assert figure.get_suptitle() == "acil forgets 10 points of a task, finetune 100"
    assert png(figure).startswith(b"\x89PNG")


def test_classes_stand_from_many_samples_to_few(streamed):
    figure = stream.accuracy_of_each_class(streamed)
    line = figure.axes[1].lines[0]
    assert np.asarray(line.get_ydata()).tolist() == [100, 90, 20]
    assert title(figure) == "acil is the most even over classes: 80.00 % balanced"
    assert png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "draw",
    [
        stream.accuracy_after_each_step,
        stream.accuracy_against_samples,
        stream.task_matrices,
        stream.accuracy_of_each_class,
    ],
)
def test_a_run_without_a_stream_says_so(draw, results):
    texts = [text.get_text() for axes in draw(results).axes for text in axes.texts]
    assert "nothing was recorded" in texts
