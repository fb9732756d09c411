"""The two studies of noise: every cell is there, compared seed by seed, and odd ones are refused."""

from __future__ import annotations

import json

import pytest

from experiments.main import main
from experiments.studies.dp_tradeoff import over_seeds
from fedlab.report.result import Result

pytestmark = pytest.mark.slow

SMALL = ["clients=4", "features.expansion.width=16", "study.seeds=[0,1]"]


def run(directory, *overrides: str) -> dict:
    assert main(["run", f"hydra.run.dir={directory}", *overrides]) == 0
    return json.loads((directory / "results.json").read_text())


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tradeoff") / "run"
    run(directory, "experiment=dp_afl", *SMALL, "study.epsilon=[1,1000]")
    return directory


def test_every_cell_is_there(study):
    results = json.loads((study / "results.json").read_text())
    rows = results["study"]["rows"]
    assert [(r["trust"], r["epsilon"], r["seed"]) for r in rows] == [
        (trust, epsilon, seed)
        for seed in (0, 1)
        for trust, epsilon in [("none", None)]
        + [(t, e) for t in ("central", "distributed", "local") for e in (1, 1000)]
    ]
    assert results["privacy"]["epsilon"] == pytest.approx(1.0, rel=1e-3)
    assert (study / "figures" / "tradeoff.png").stat().st_size > 0
    assert "central" in str(Result.load(study).table(width=100))


def test_nearly_no_noise_costs_nearly_nothing(study):
    """At epsilon 1000 the noise of a trusted server, and of all clients together, is small: within 10 points."""
    summary = json.loads((study / "results.json").read_text())["study"]["summary"]
    lost = {(row["trust"], row["epsilon"]): row["points lost"] for row in summary}
    assert lost["none", None] == 0
    for trust in ("central", "distributed"):
        assert lost[trust, 1000] < 10
        assert lost[trust, 1000] < lost[trust, 1]


def test_seeds_are_averaged():
    rows = [
        {"trust": trust, "epsilon": epsilon, "seed": seed, "accuracy": accuracy}
        for trust, epsilon, seed, accuracy in [
            ("none", None, 0, 0.9),
            ("local", 1, 0, 0.7),
            ("none", None, 1, 0.8),
            ("local", 1, 1, 0.5),
        ]
    ]
    plain, local = over_seeds(rows, ("trust", "epsilon"))
    assert plain["points lost"] == 0
    assert (local["lowest"], local["highest"], local["seeds"]) == (0.5, 0.7, 2)
    assert local["accuracy"] == pytest.approx(0.6)
    assert local["points lost"] == pytest.approx(25.0)  # of 20 and 30


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("study.trust=[me]", "central"),
        ("study.epsilon=[]", "no cell"),
        ("methods=[dp_afl]", "lacks afl"),
        ("methods=[afl]", "lacks dp_afl"),
        ("study.epsilon=[1,0]", "epsilon=0"),
        ("privacy.delta=1", "delta=1"),
        ("privacy.clip=-1", "clip=-1"),
        ("entropy=dice", "seeded"),
    ],
)
def test_odd_ones_are_refused(capsys, tmp_path, override: str, said: str):
    words = ["experiment=dp_afl", *SMALL, "study.epsilon=[1]", "study.trust=[central]", override]
    assert main(["run", f"hydra.run.dir={tmp_path / 'run'}", *words]) == 2
    assert said in capsys.readouterr().err


def test_projections(tmp_path):
    words = ["experiment=dp_projections", "source=digits", "features=identity", "clients=4"]
    sizes = ["study.train=900", "study.public=200", "study.seeds=[0,1]", "study.epsilon=[1e5]", "study.widths=[32]"]
    results = run(tmp_path / "run", *words, *sizes, "privacy.clip=8")
    summary = {row["projection"]: row for row in results["study"]["summary"]}
    assert list(summary) == ["none", "all features", "public Gram", "principal 32", "random 32"]
    assert summary["all features"]["points lost"] == pytest.approx(0, abs=3)  # nearly no noise, another ridge
    assert summary["principal 32"]["public"] == "200 rows"
    assert summary["random 32"]["public"] == "none"
    assert (tmp_path / "run" / "figures" / "projections.png").stat().st_size > 0


def test_projections_need_rows_to_test_on(capsys, tmp_path):
    words = ["experiment=dp_projections", "source=digits", "features=identity", "study.train=1700"]
    assert main(["run", f"hydra.run.dir={tmp_path / 'run'}", *words]) == 2
    assert "leave no test rows" in capsys.readouterr().err
