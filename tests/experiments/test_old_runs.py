"""Run directories of before the move into rooms: they resume, report, unlearn and show what was released.

`tests/fixtures/old_runs` was written by commit 626587b and holds its names: paths of classes in `config.yaml` and in
checkpoints, keys of overrides. It is never edited. `whole.json` is what the same commands came to there when nothing
stopped them. Exact statistics are the same on every processor; a head is held to the bit where this one comes to the
former bits from the start, and to its accuracy elsewhere.
"""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from experiments.main import main
from fedlab.engine.messages.records import digest_of
from fedlab.engine.persistence.checkpoint import Checkpoints

OLD = Path(__file__).parents[1] / "fixtures" / "old_runs"
WHOLE = json.loads((OLD / "whole.json").read_text())
FIGURES = ("strategy", "rounds", "statistics_sha256", "bytes_up_per_client", "bytes_down_per_client")
CLOSE = 0.03
"""Of accuracies, where another processor trains: about ten of 360 test samples."""


@pytest.fixture
def copy(tmp_path):
    """Return what copies an old run, to be changed."""
    return lambda name, to="run": Path(shutil.copytree(OLD / name, tmp_path / to))


def methods(directory: Path) -> dict:
    return json.loads((directory / "results.json").read_text())["methods"]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check(name: str, directory: Path) -> None:
    """A run of that name has ended, and sent and released what it would have without a break."""
    now = methods(directory)
    assert list(now) == list(WHOLE[name]) and not (directory / "checkpoints").exists()
    for method, before in WHOLE[name].items():
        assert {key: now[method][key] for key in FIGURES} == {key: before[key] for key in FIGURES}
        if before["privacy"] is None:
            assert now[method]["accuracy"] == pytest.approx(before["accuracy"], abs=CLOSE)
        else:  # where other bits are trained other noise is drawn, and accuracies differ by what it costs
            epsilon = pytest.approx(before["privacy"]["epsilon"])
            assert now[method]["privacy"] == before["privacy"] | {"epsilon": epsilon}


@pytest.mark.parametrize("name", WHOLE)
def test_an_interrupted_run_goes_on_to_what_it_would_have_come_to(name, copy, capsys):
    directory, again = copy(name), copy(name, "again")
    assert main(["run", f"resume={directory}"]) == 0
    (resumed,) = [event for event in lines(directory / "metrics.jsonl") if event["event"] == "resume"]
    assert resumed["round"] >= 2  # from its checkpoint, not from the start
    check(name, directory)
    for kept in ("checkpoints", "privacy"):  # without them: what this processor comes to from the start
        shutil.rmtree(again / kept, ignore_errors=True)
    assert main(["run", f"resume={again}"]) == 0
    now, fresh = methods(directory), methods(again)
    for method, before in WHOLE[name].items():
        if fresh[method]["head_sha256"] == before["head_sha256"]:
            assert now[method]["head_sha256"] == before["head_sha256"]
            assert now[method]["accuracy"] == before["accuracy"]
    capsys.readouterr()
    assert main(["run", f"resume={directory}"]) == 0
    assert "has ended" in capsys.readouterr().out


def test_one_that_is_stopped_once_more_goes_on_once_more(copy, monkeypatch):
    # Then its folder holds files of both versions: the config of this one, and methods that ended before.
    directory, after = copy("averaging"), Checkpoints.after

    def stop(*arguments):
        after(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "after", stop)
        assert main(["run", f"resume={directory}"]) == 2
    assert main(["run", f"resume={directory}"]) == 0
    resumed = [event["round"] for event in lines(directory / "metrics.jsonl") if event["event"] == "resume"]
    assert resumed == [3, 4]
    check("averaging", directory)


@pytest.mark.parametrize(("name", "method"), [("kept", "afl"), ("kept_stream", "aefocl")])
def test_clients_leave_a_finished_run(name, method, copy):
    directory = copy(name)
    # One of them was left by a client already.
    before = lines(directory / "deletions.jsonl") if (directory / "deletions.jsonl").exists() else []
    ended = before[-1]["head_after"] if before else methods(directory)[method]["head_sha256"]
    assert main(["unlearn", str(directory), "--client", "1", "--verify"]) == 0
    assert main(["unlearn", str(directory), "--client", "2", "--verify", "data"]) == 0
    *kept, first, second = lines(directory / "deletions.jsonl")
    assert kept == before and (first["clients"], second["clients"]) == ([1], [2])
    assert first["retrained"]["equal"] and second["retrained"]["equal"]
    assert first["head_before"] == ended and first["head_after"] == second["head_before"] != ended
    assert digest_of(load_file(directory / "model.safetensors")) == second["head_after"]


def test_a_finished_run_is_reported_and_its_releases_are_shown(copy, capsys):
    directory = copy("private")
    assert main(["report", str(directory)]) == 0
    page = (directory / "index.html").read_text()
    assert all(f"{result['accuracy']:.2%}".replace("%", " %") in page for result in methods(directory).values())
    capsys.readouterr()
    assert main(["privacy", "show", str(directory)]) == 0
    shown = capsys.readouterr().out
    assert "dp_afl: epsilon 8 of 8 at delta 1e-05, per sample (add_remove), 1 release" in shown
    assert "dp_fedavg: epsilon 7.942 of 8 at delta 1e-05, per client (add_remove), 4 releases" in shown
