"""Figures of a stream: they draw what `results.json` holds, and their titles follow the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from fedlab.report import stream
from fedlab.report.result import png


def told(accuracies, tasks, balanced, forgetting):
    steps = [{"accuracy": a, "tasks": row} for a, row in zip(accuracies, tasks, strict=True)]
    return {
        "accuracy": accuracies[-1],
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
    "draw", [stream.accuracy_after_each_step, stream.task_matrices, stream.accuracy_of_each_class]
)
def test_a_run_without_a_stream_says_so(draw, results):
    texts = [text.get_text() for axes in draw(results).axes for text in axes.texts]
    assert "nothing was recorded" in texts
