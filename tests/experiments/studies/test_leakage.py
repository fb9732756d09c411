"""The leakage study: reconstruction succeeds where nothing protects, and falls to a guess where something does."""

from __future__ import annotations

import json

import pytest
from safetensors.numpy import load_file
from scipy.special import ndtr

from experiments.config.compose import compose
from experiments.main import main
from experiments.studies.leakage import leakage
from fedlab.errors import BadInput
from fedlab.privacy.mechanisms.gaussian import multiplier
from fedlab.tracking.run_directory import RunDirectory

pytestmark = pytest.mark.slow

SMALL = [
    *("experiment=leakage", "clients=20", "study.epsilons=[1.0]", "study.targets=30"),
    *("study.candidates=80", "study.halves=3", "study.shadows=4", "study.tries=4"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    where = tmp_path_factory.mktemp("leakage") / "run"
    assert main(["run", f"hydra.run.dir={where}", *SMALL]) == 0
    return where


@pytest.fixture(scope="module")
def rows(run):
    study = json.loads((run / "results.json").read_text())["study"]
    assert study["kind"] == "leakage"
    return {(row["attack"], row["view"], row["epsilon"]): row for row in study["rows"]}


def test_every_attack_meets_every_view(run, rows):
    assert len(rows) == 31
    assert {epsilon for _, view, epsilon in rows if "noise" in view} == {1.0}
    assert (run / "figures" / "leakage.png").exists() and load_file(run / "model.safetensors")
    for row in rows.values():
        assert row["low"] <= row["leaked"] <= row["high"]
        assert row["leaked"] == pytest.approx((row["success"] - row["chance"]) / (1 - row["chance"]), abs=1e-3)


def test_a_sample_alone_is_read_and_protection_leaves_a_guess(rows):
    for attack in ("feature", "feature, informed"):
        assert rows[attack, "plain", None]["success"] > 0.999
        for view in (("masked", None), ("secure sum", None), ("local noise", 1.0), ("central noise", 1.0)):
            assert abs(rows[attack, *view]["leaked"]) < 0.05
    # Noise on one sample leaves what random directions reach; the crowd of a sum still shows its mean.
    for view in (("local noise", 1.0), ("masked", None)):
        assert rows["feature", *view]["success"] == pytest.approx(rows["feature", *view]["random"], abs=0.06)
    silent = rows["feature", "below 10", None]
    assert silent["success"] == silent["chance"]
    assert rows["feature", "at least 10", None]["success"] > 0.95, "ten samples hide no class with one"


def test_counts_and_members_are_told_from_plain_uploads_alone(rows):
    assert rows["histogram", "plain", None]["success"] == 1
    assert rows["histogram", "plain, no counts", None]["success"] > 0.95
    assert abs(rows["histogram", "secure sum", None]["leaked"]) < 0.05
    known, unknown = "member, others known", "member, others unknown"
    assert rows[known, "plain", None]["success"] == rows[known, "secure sum", None]["success"] == 1
    assert rows[unknown, "plain", None]["success"] > 0.8 > rows[unknown, "secure sum", None]["success"]
    assert rows["member, from the head", "secure sum", None]["success"] > 0.55
    for view in ("local noise", "central noise"):
        row = rows[known, view, 1.0]
        assert row["low"] < 2 * ndtr(1 / (2 * multiplier(1.0, 1e-5))) - 1 < row["high"]
        assert row["advantage"] < row["cap"]


def test_the_same_seed_gives_the_same_rows(tmp_path):
    tiny = ["study.targets=8", "study.candidates=20", "study.halves=1", "study.shadows=2"]
    found = []
    for name in ("once", "again"):
        with RunDirectory(tmp_path / name) as directory:
            found.append(leakage(compose([*SMALL, *tiny]), directory)["study"]["rows"])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["study.epsilons=[]"], "names no epsilons"),
        (["study.epsilons=[-1.0]"], "epsilon=-1.0"),
        (["study.delta=2.0"], "delta=2.0"),
        (["study.tries=0"], "study.tries=0 must be a whole number >= 1"),
        (["study.clip=-1.0"], "clip=-1.0"),
        (["study.targets=1500"], "1437 samples.*too few"),
        (["study.min_samples=1400"], "0 clients with at least 1400"),
        (["ridge=gcv"], "ridge=gcv"),
        (["methods=[fedavg]"], "lacks afl"),
    ],
)
def test_a_study_that_cannot_be_made_is_refused(tmp_path, overrides, message):
    with RunDirectory(tmp_path) as directory, pytest.raises(BadInput, match=message):
        leakage(compose([*SMALL, *overrides]), directory)
