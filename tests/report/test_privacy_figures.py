"""Figures of privacy: what leaked, what noise costs over the seeds, and titles that say what they show."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fedlab.errors import BadInput
from fedlab.report import privacy
from fedlab.report.result import Result, png


def attack(name, view, epsilon, leaked):
    spans = {"leaked": leaked, "low": leaked - 0.05, "high": leaked + 0.05}
    return {"attack": name, "view": view, "epsilon": epsilon, **spans}


ATTACKS = [
    attack("feature", "plain", None, 1.0),
    attack("feature", "secure sum", None, 0.0),
    attack("feature", "local noise", 1.0, 0.02),
    attack("member", "plain", None, 1.0),
    attack("member", "local noise", 8.0, 0.75),
    attack("member", "local noise", 1.0, 0.02),
    attack("member", "central noise", 1.0, 0.0),
]


def drawn(axes):
    """Every curve with its points, as lists of (x, y)."""
    return [
        list(zip(*(np.round(np.asarray(part, float), 6).tolist() for part in line[0].get_data()), strict=True))
        for line in axes.containers
    ]


def test_what_leaked_is_drawn_by_view_and_against_epsilon():
    figure = privacy.attack_success(ATTACKS)
    left, right = figure.axes
    assert [label.get_text() for label in left.get_xticklabels()] == ["plain", "secure sum"]
    feature, member = drawn(left)
    assert [y for _, y in feature] == [1, 0] and [y for _, y in member] == [1]
    assert [round(x) for x, _ in feature] == [0, 1] and feature[0][0] < member[0][0]
    assert drawn(right) == [[(1, 0.02)], [(1, 0.02), (8, 0.75)], [(1, 0)]]
    assert right.get_xscale() == "log"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*("feature", "member", "local noise", "central noise")]
    assert png(figure).startswith(b"\x89PNG")


def title(figure):
    return figure.get_suptitle()


def test_the_title_follows_the_attacks():
    assert title(privacy.attack_success(ATTACKS)) == (
        "The best attack gets 1.00 of 1 from plain uploads, nothing at epsilon 1"
    )
    worse = [*ATTACKS, attack("member", "local noise", 0.5, 0.3)]
    assert title(privacy.attack_success(worse)).endswith("1.00 of 1 from plain uploads, 0.30 at epsilon 0.5")
    assert title(privacy.attack_success(ATTACKS[:2])) == "The best attack gets 1.00 of 1 from plain uploads"
    assert title(privacy.attack_success(ATTACKS[2:3])) == "The best attack gets nothing at epsilon 1"


COSTS = [
    {"trust": trust, "epsilon": epsilon, "seed": seed, "accuracy": accuracy + seed / 100}
    for trust, epsilon, accuracy in [
        ("none", None, 0.90),
        ("central", 1, 0.85),
        ("central", 0.5, 0.70),
        ("local", 0.5, 0.30),
        ("local", 1, 0.40),
    ]
    for seed in (0, 1, 2)
]


def lines(figure):
    return {str(line.get_label()): np.asarray(line.get_xydata()).round(6).tolist() for line in figure.axes[0].lines}


def test_accuracy_is_the_mean_over_seeds_with_their_spread():
    figure = privacy.accuracy_against_epsilon(COSTS)
    found = lines(figure)
    assert found["central"] == [[0.5, 71], [1, 86]] and found["local"] == [[0.5, 31], [1, 41]]
    assert [y for _, y in found["no noise  91.00 %"]] == [91, 91]
    spans = [area.get_paths()[0].get_extents() for area in figure.axes[0].collections]
    assert [(round(span.y0), round(span.y1)) for span in spans] == [(70, 87), (30, 42)]
    assert figure.axes[0].get_title(loc="left") == "central loses 20.0 points at epsilon 0.5"
    png(figure)


def test_the_title_follows_the_costs():
    free = [row | {"accuracy": 0.95} if row["trust"] == "central" else row for row in COSTS]
    assert privacy.accuracy_against_epsilon(free).axes[0].get_title(loc="left") == (
        "central loses nothing at epsilon 0.5"
    )
    noisy = [row for row in COSTS if row["epsilon"]]
    assert privacy.accuracy_against_epsilon(noisy).axes[0].get_title(loc="left") == "Accuracy against epsilon"


def test_projections_of_two_widths_are_two_lines():
    rows = [
        {"projection": "none", "width": 64, "epsilon": None, "seed": 0, "accuracy": 0.9},
        {"projection": "principal 32", "width": 32, "epsilon": 1, "seed": 0, "accuracy": 0.8},
        {"projection": "all features", "width": 64, "epsilon": 1, "seed": 0, "accuracy": 0.7},
    ]
    assert set(lines(privacy.accuracy_against_epsilon(rows, by="projection"))) == {
        *("principal 32", "all features, 64", "no noise  90.00 %")
    }


@pytest.mark.parametrize("draw", [privacy.attack_success, privacy.accuracy_against_epsilon])
def test_empty_studies_draw(draw):
    png(draw([]))


@pytest.mark.parametrize(("kind", "rows"), [("leakage", ATTACKS), ("tradeoff", COSTS)])
def test_a_run_draws_its_study(tmp_path, kind, rows):
    (tmp_path / "results.json").write_text(json.dumps({"study": {"kind": kind, "rows": rows}}))
    result = Result.load(tmp_path)
    assert result.kinds == [kind]
    result.plot(None, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(BadInput, match="holds no projections study: run experiment=dp_projections"):
        result.plot("projections")
    assert str(rows[0]["epsilon"] or "—") in result.table()
