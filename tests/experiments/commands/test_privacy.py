"""`fedlab privacy`: what a run has spent, across breaks and new beginnings; and what a promise takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from clients.app import app as client_app
from experiments.commands.privacy import ledgers, planned
from experiments.config.compose import compose
from experiments.main import main
from experiments.runner.compare import describe
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.errors import BadInput
from fedlab.privacy.accounting.budget import PrivacyBudget
from fedlab.privacy.accounting.ledger import BudgetSpent, Ledger
from fedlab.privacy.accounting.release import Release
from fedlab.privacy.ridge.guarantee import Guarantee
from fedlab.privacy.ridge.plan import Plan, forecast
from fedlab.stats import NoisyGram
from strategies.app import app as server_app

SMALL = ["methods=[dp_afl]", "clients=4", "features.expansion.width=16"]


def run(folder: Path, *words: str) -> int:
    return main(["run", *SMALL, f"hydra.run.dir={folder}", *words])


def releases(folder: Path) -> int:
    return len(Ledger.read(folder / "privacy" / "dp_afl.jsonl").releases)


def interrupt(*_: object) -> None:
    raise RuntimeError("the power is gone")


# -- runs --------------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_ledger_and_a_new_one_begins_anew(tmp_path, capsys):
    assert run(tmp_path, "privacy.epsilon=2.0") == 0
    result = json.loads((tmp_path / "results.json").read_text())["methods"]["dp_afl"]
    ledger = Ledger.read(tmp_path / "privacy" / "dp_afl.jsonl")
    assert result["privacy"] == ledger.statement()
    assert result["privacy"]["epsilon"] == pytest.approx(2.0, rel=1e-6)
    assert releases(tmp_path) == 1
    capsys.readouterr()
    assert main(["privacy", "show", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "dp_afl: epsilon 2 of 2 at delta 1e-05, per sample (add_remove), 1 release" in shown
    assert "round 1" in shown and "everyone" in shown
    assert run(tmp_path, "privacy.epsilon=1.0") == 0
    assert releases(tmp_path) == 1
    assert Ledger.read(tmp_path / "privacy" / "dp_afl.jsonl").spent()[0] == pytest.approx(1.0, rel=1e-6)


def test_a_break_after_the_release_is_neither_forgotten_nor_paid_twice(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(NoisyGram, "solution", interrupt)
        with pytest.raises(RuntimeError, match="power"):
            run(tmp_path)
    assert releases(tmp_path) == 1  # there is no checkpoint yet, and yet it was released
    assert main(["run", f"resume={tmp_path}"]) == 0
    assert releases(tmp_path) == 1  # the same seed, the same bits


def test_a_fresh_draw_after_a_break_is_a_release_of_its_own(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(NoisyGram, "solution", interrupt)
        with pytest.raises(RuntimeError, match="power"):
            run(tmp_path, "entropy=os")
    ledger = tmp_path / "privacy" / "dp_afl.jsonl"
    before = ledger.read_bytes()
    assert main(["run", f"resume={tmp_path}"]) == 2
    assert "past the cap" in capsys.readouterr().err
    assert ledger.read_bytes() == before


def test_what_a_deployment_spent_is_not_renewed_by_starting_it_again(tmp_path):
    cfg = compose([*SMALL, "entropy=os"])
    config = describe(cfg, "dp_afl") | {"connect_timeout": 0.0, "out": str(tmp_path)}
    shown = {"config": json.dumps(config)}
    with LocalGrid(client_app, 4, shown) as grid:
        server_app(grid, Context(0, 1, {}, RecordDict(), dict(shown)))
        assert len(Ledger.read(ledgers(tmp_path)[tmp_path.name]).releases) == 1
        with pytest.raises(BudgetSpent):
            server_app(grid, Context(0, 1, {}, RecordDict(), dict(shown)))


# -- show --------------------------------------------------------------------------------------------------------


def test_show_gathers_rounds_and_groups_clients(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    with Ledger(PrivacyBudget(epsilon=8.0), tmp_path / "privacy" / "steps.jsonl") as ledger:
        for number in range(1, 4):
            kind = {"noise_multiplier": 1.5, "sampling_probability": 0.01, "steps": 10}
            ledger.charge(Release(f"{number}", f"round {number}", "subsampled_gaussian", **kind, clients=(0, 1)))
        ledger.charge(Release("v", "votes [x]", "pure", epsilon=0.25, clients=(1, 2)))
    with Ledger(PrivacyBudget(unit="client"), tmp_path / "privacy.jsonl"):
        pass
    (tmp_path / "config.yaml").touch()
    assert main(["privacy", "show", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if "round 1" in line)
    assert "round 1 ... round 3" in row and "m=1.5, q=0.01, 10 steps" in row and "0-1" in row
    assert "votes [x]" in out
    assert "all others" not in out  # nothing was said of them
    both = f"{ledger.spent(1)[0]:.4g}"
    assert [line.split()[0] for line in out.splitlines() if both in line and "epsilon" not in line] == ["1"]
    assert f"{tmp_path.name}: epsilon 0 no cap at delta 1e-05, per client (add_remove), 0 releases" in out


def test_what_has_no_ledger_says_so(tmp_path):
    with pytest.raises(BadInput, match="no folder"):
        ledgers(tmp_path / "none")
    with pytest.raises(BadInput, match="no run directory"):
        ledgers(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(BadInput, match="none of its methods promises privacy"):
        ledgers(tmp_path)
    assert main(["privacy", "show", str(tmp_path)]) == 2


# -- plan --------------------------------------------------------------------------------------------------------


def test_a_plan_says_noise_and_what_to_change(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    words = ["n=3000", "d=32", "c=4", "clients=9", "epsilon=1", "delta=1e-5", "trust=local"]
    assert main(["privacy", "plan", *words]) == 0
    out = capsys.readouterr().out
    own = Guarantee(epsilon=1.0, delta=1e-5).deviations[0]
    for number in (3.731, own, 3 * own, 3 * own * 8):  # m, s, s sqrt(k), s sqrt(k) sqrt(2 d)
        assert f"{number:.4g}" in out
    for change in ("as asked", "four times the samples", "d=8", "trust=distributed", "trust=central", "epsilon=2"):
        assert change in out
    assert "synthetic" in out


def test_every_change_leaves_more_signal():
    plan = planned(["n=4000", "d=64", "c=10", "trust=local", "clients=16"])
    for words, changed in plan.alternatives():
        assert changed.ratio > plan.ratio, words
    assert plan.ratio == pytest.approx(4000 / 64 / (plan.deviation * 128**0.5))


def test_a_forecast_knows_noise_from_samples():
    weak = forecast(Plan(Guarantee(epsilon=0.1), 2000, 32, 4, 10))
    strong = forecast(Plan(Guarantee(epsilon=10.0), 200_000, 32, 4, 10))
    assert weak is not None and strong is not None
    assert strong.accuracy > weak.accuracy + 0.1
    assert strong.without - strong.accuracy < 3 * strong.error
    assert strong.rows < 200_000
    assert forecast(Plan(Guarantee(), 10_000, 4096, 4, 10)) is None


def test_a_client_as_unit_is_clipped_as_a_whole():
    of = Guarantee(unit="client", clip=2.0)
    few, many = Plan(of, 1000, 16, 4, 10), Plan(of, 1000, 16, 4, 1000)
    assert many.ratio > few.ratio  # a hundred rows of a client count as much as the clip lets them


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["epsilon=0"], "epsilon=0.0 must be"),
        (["epsilon=nan"], "epsilon=nan must be"),
        (["delta=1"], "delta=1.0 must be"),
        (["clip=0"], "clip=0.0 must be"),
        (["n=0"], "n=0 must be"),
        (["d=0"], "d=0 must be"),
        (["c=1"], "c=1 must be"),
        (["clients=101"], "clients=101 must be"),
        (["n=1e3"], "n=1e3 is not an integer"),
        (["trust=nobody"], "unknown trust"),
        (["unit=row"], "unknown unit"),
        (["noise=1"], "unknown setting 'noise'"),
        (["d=16", "d=8"], "given twice"),
        (["d"], "no setting"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(words, said, capsys):
    keys = {word.partition("=")[0] for word in words}
    others = [word for word in ("n=100", "d=8", "c=2") if word.partition("=")[0] not in keys]
    assert main(["privacy", "plan", *words, *others]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


# -- audit -------------------------------------------------------------------------------------------------------


def test_an_audit_finds_most_of_a_promise_and_no_more(capsys):
    assert main(["privacy", "audit", "epsilon=1", "delta=1e-5", "seed=0"]) == 0
    bounds = [float(bound) for bound in re.findall(r"epsilon >= ([\d.]+)", capsys.readouterr().out)]
    assert len(bounds) == 2 and all(0.3 < bound < 1 for bound in bounds)


def test_noise_that_is_too_small_is_disproved(capsys, monkeypatch):
    half = property(lambda of: (0.5 * of.noise_multiplier * of.sensitivity,) * 2)
    monkeypatch.setattr(Guarantee, "deviations", half)
    assert main(["privacy", "audit", "epsilon=1", "delta=1e-5"]) == 2
    assert "epsilon=1 is disproved" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["unit=client"], "adds one sample"),
        (["trust=distributed"], "adds one sample"),
        (["releases=10"], "releases=10 must be"),
        (["confidence=1"], "confidence=1.0"),
        (["n=5"], "unknown setting 'n'"),
    ],
)
def test_what_cannot_be_audited_is_said_in_one_line(words, said, capsys):
    assert main(["privacy", "audit", *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_a_plan_needs_its_sizes(capsys):
    assert main(["privacy", "plan", "d=8"]) == 2
    assert "plan needs n=, c=" in capsys.readouterr().err
