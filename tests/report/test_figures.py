"""Figures: they draw the numbers they are given, and their titles say what those numbers show."""

from __future__ import annotations

import numpy as np
import pytest

from fedlab.report import curves, figures
from fedlab.report.result import png


def curve(figure, label):
    (axes,) = figure.axes
    (line,) = [line for line in axes.lines if str(line.get_label()).startswith(label)]
    return np.asarray(line.get_xdata(), float).tolist(), np.asarray(line.get_ydata(), float).tolist()


def title(figure):
    return figure.axes[0].get_title(loc="left")


def test_accuracy_against_rounds(results, events):
    figure = curves.accuracy_against_rounds(results, events)
    assert curve(figure, "fedavg") == ([0, 1, 2, 3, 4], pytest.approx([10, 50, 80, 90, 91]))
    assert curve(figure, "afl") == ([1], [98])
    assert curve(figure, "centralised")[1] == [98, 98]
    assert title(figure) == "afl equals the centralised solution in one round"
    assert png(figure).startswith(b"\x89PNG")


def test_the_title_follows_the_numbers(results, events):
    results["methods"]["afl"]["accuracy"] = 0.95
    assert title(curves.accuracy_against_rounds(results, events)) == (
        "afl ends 3 points below the centralised solution in one round"
    )
    results["methods"]["fedavg"]["accuracy"] = 0.99
    assert title(curves.accuracy_against_rounds(results, events)) == (
        "fedavg ends 1 point above the centralised solution after 4 rounds"
    )
    del results["methods"]["centralised"]
    assert title(curves.accuracy_against_rounds(results, events)) == "fedavg ends highest after 4 rounds"


def test_equal_accuracy_is_called_equal_only_with_equal_heads(results, events):
    results["methods"]["afl"]["head_sha256"] = "e" * 64
    assert title(curves.accuracy_against_rounds(results, events)) == "afl is as accurate as centralised in one round"


def test_bytes_are_those_of_one_client(results, events):
    figure = curves.accuracy_against_bytes(results, events)
    # fedavg: 1.5 MB up and 80 kB down per client in the end, a quarter of it in each of 4 rounds; round 0
    # costs nothing and has no place on a logarithm.
    assert curve(figure, "fedavg") == (pytest.approx([395e3, 790e3, 1185e3, 1580e3]), pytest.approx([50, 80, 90, 91]))
    assert curve(figure, "afl")[0] == [1_520_000]
    assert title(figure) == "afl equals the centralised solution with 1.52 MB per client"
    png(figure)


def test_rounds_that_are_run_again_replace_the_former(results, events):
    again = [{"event": "round", "method": "fedavg", "round": 2, "accuracy": 0.7}]
    assert curve(curves.accuracy_against_rounds(results, events + again), "fedavg")[0] == [0, 1, 2]


def test_unmeasured_rounds_are_gaps_not_zeros(results, events):
    events[2]["accuracy"] = None
    assert curve(curves.accuracy_against_rounds(results, events), "fedavg")[0] == [0, 1, 3, 4]


@pytest.mark.parametrize("draw", [curves.accuracy_against_rounds, curves.accuracy_against_bytes])
def test_empty_runs_draw(draw, results):
    png(draw(results, []))
    png(draw({}, []))
    png(draw({"methods": {"afl": {"accuracy": None}}}, []))
    png(draw({"methods": {"$x_{": {"accuracy": 0.5, "rounds": 1}, "n" * 200: {"accuracy": 0.1}}}, []))


def test_label_distribution_sorts_clients_by_size():
    figure = figures.label_distribution([[1, 0], [0, 0], [4, 4]])
    image = figure.axes[1].images[0].get_array()
    assert image is not None
    assert image[:, 0].tolist() == [50, 50]
    assert image[:, 1].tolist() == [100, 0]
    assert np.isnan(np.ma.filled(image[:, 2], np.nan)).all(), "an empty client has no shares"
    assert title(figure) == "The median client holds 1 of 2 classes; 1 of 3 hold no sample"


@pytest.mark.parametrize("shape", [(1000, 10), (1, 1), (5, 300), (0, 10), (3, 0)])
def test_label_distribution_of_any_shape_draws(shape):
    png(figures.label_distribution(np.random.default_rng(0).integers(0, 3, shape)))


def grid(**changes) -> list[dict]:
    rows = [
        {"clients": k, "alpha": a, "accuracy": 0.986, "head_sha256": "ab" * 32} for k in (1, 1000) for a in ("iid", 0.1)
    ]
    rows[1] |= changes
    return rows


def test_invariance_says_whether_the_heads_are_one():
    figure = figures.invariance_heatmap(grid())
    assert title(figure) == "Every partition gives the same head, bit for bit"
    assert [text.get_text() for text in figure.axes[0].texts] == ["98.60 %\nababab"] * 4
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0.1", "iid"]
    assert not figure.axes[0].patches
    odd = figures.invariance_heatmap(grid(head_sha256="cd" * 32))
    assert title(odd) == "4 partitions give 2 different heads"
    assert len(odd.axes[0].patches) == 1, "the head that differs is framed"


def test_invariance_draws_what_is_missing():
    png(figures.invariance_heatmap(grid(accuracy=None, head_sha256=None)))
    png(figures.invariance_heatmap(grid()[:1]))
    png(figures.invariance_heatmap([]))


def test_dummy_errors():
    rows = [{"clients": 200, "error": 5e-14, "pairwise_error": 1e-10}, {"clients": 2, "error": 0.0}]
    figure = figures.dummy_errors(rows)
    assert curve(figure, "sum") == ([2, 200], [np.finfo(float).eps, 5e-14])
    assert curve(figure, "pairwise") == ([200], [1e-10])
    assert title(figure) == "The sum stays within 5.0e-14 of the centralised head up to 200 clients"
    png(figure)
    png(figures.dummy_errors([]))
    png(figures.dummy_errors([{"clients": 2, "error": None}]))
