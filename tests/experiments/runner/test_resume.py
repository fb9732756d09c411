"""`fedlab run resume=DIR`: whatever ended a run, it goes on to the bits it would have come to."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import fedlab
from experiments.main import main
from experiments.runner.resume import changed_versions, reopen
from fedlab.errors import BadInput
from fedlab.tracking.run_directory import RunDirectory

pytestmark = pytest.mark.slow

KILLS = 20
SMALL = ["clients=6", "rounds=6", "features.expansion.width=16", "cohort.minimum=3", "gradient.batch_size=50"]
METHODS = "methods=[afl,fedavg,fedadam]"
SECONDS = ("seconds", "peak_rss_bytes")


class Forge:
    """Forks runs off a process that has loaded everything; see `forge.py`."""

    def __init__(self, log: Path):
        self._log = log
        command = [sys.executable, "-m", "tests.experiments.forge", json.dumps(SMALL)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._read() == "ready"

    def start(self, *words: str) -> int:
        self._log.unlink(missing_ok=True)
        return int(self._ask(run=["run", *words], log=str(self._log)))

    def wait(self, pid: int) -> int:
        return int(self._ask(wait=pid))

    def run(self, *words: str) -> int:
        return self.wait(self.start(*words))

    def said(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()  # it ends when nobody asks any more
        self._process.stdout.close()
        self._process.wait(timeout=30)

    def _ask(self, **order: object) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def forge(tmp_path_factory) -> Iterator[Forge]:
    made = Forge(tmp_path_factory.mktemp("forge") / "log")
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(forge, tmp_path_factory) -> Path:
    """A run that was never interrupted."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    assert forge.run(*SMALL, METHODS, f"hydra.run.dir={directory}") == 0, forge.said()
    return directory


def outcome(directory: Path) -> dict:
    """Everything that a run found, but how long it took."""
    results = json.loads((directory / "results.json").read_text())
    return {
        name: {key: value for key, value in method.items() if key not in SECONDS}
        for name, method in results["methods"].items()
    }


def story(directory: Path) -> list[tuple]:
    """What happened, in order; that it went on is no part of it."""
    events = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    numbers = ("round", "accuracy", "bytes_up", "bytes_down")
    return [
        (event["event"], event["method"], *(event.get(key) for key in numbers))
        for event in events
        if event["event"] != "resume"
    ]


def begun(directory: Path) -> bool:
    return (directory / "overrides.yaml").exists()


def count(directory: Path) -> int:
    """How many events a run has told."""
    events = directory / "metrics.jsonl"
    return len(events.read_bytes().splitlines()) if events.exists() else 0


def wait_for(forge: Forge, come: Callable[[], object]) -> None:
    deadline = time.monotonic() + 100
    while not come():
        assert time.monotonic() < deadline, forge.said()
        time.sleep(0.002)


def stopped(forge: Forge, directory: Path, with_signal: int, at: str = "checkpoints/fedavg/round-000003*") -> int:
    """Start a run, stop it when it has come so far, and return its exit code."""
    pid = forge.start(*SMALL, METHODS, f"hydra.run.dir={directory}")
    wait_for(forge, lambda: list(directory.glob(at)))
    os.kill(pid, with_signal)
    return forge.wait(pid)


@pytest.fixture(scope="module")
def killed(forge, tmp_path_factory) -> Path:
    """A run that was killed while FedAvg was under way."""
    directory = tmp_path_factory.mktemp("runs") / "killed"
    assert stopped(forge, directory, signal.SIGKILL) == -signal.SIGKILL
    return directory


@pytest.fixture
def torn(killed, tmp_path) -> Path:
    """A copy of it, to be harmed."""
    return Path(shutil.copytree(killed, tmp_path / "torn"))


def test_a_run_killed_at_any_moment_comes_to_the_same_bits(forge, whole, tmp_path):
    rng = random.Random(0)
    kills, runs, states = 0, 0, set()
    while kills < KILLS:
        directory = tmp_path / str(runs)
        runs += 1
        code = -signal.SIGKILL
        while code != 0:
            new = [*SMALL, METHODS, f"hydra.run.dir={directory}"]
            moment = count(directory) + rng.randrange(10)
            ended = (directory / "results.json").exists
            going = kills < KILLS and not ended()
            pid = forge.start(*([f"resume={directory}"] if begun(directory) else new))
            if going:  # so many events later, and somewhere on the way to the next; or as it ends
                wait_for(forge, lambda d=directory, m=moment, ended=ended: count(d) >= m or ended())
                time.sleep(rng.uniform(0, 0.01))
                os.kill(pid, signal.SIGKILL)
            code = forge.wait(pid)
            assert code in (0, -signal.SIGKILL), forge.said()
            kills += code != 0
            states.add(tuple(sorted(path.parent.name for path in directory.glob("checkpoints/*/round-*"))))
        assert outcome(directory) == outcome(whole)
        assert story(directory) == story(whole)
        assert not list(directory.glob("**/.*.tmp")) and not (directory / "checkpoints").exists()
    assert len(states) >= 4, states  # before a checkpoint, and in each of the methods


def test_a_run_stopped_by_ctrl_c_says_how_to_go_on_and_does(forge, whole, tmp_path):
    directory = tmp_path / "run"
    assert stopped(forge, directory, signal.SIGINT, "checkpoints/fedadam/round-*") == 2
    assert "interrupted" in forge.said() and f"to continue: fedlab run resume={directory}" in forge.said()
    assert forge.run(f"resume={directory}") == 0
    assert outcome(directory) == outcome(whole) and story(directory) == story(whole)
    assert "afl" in forge.said() and f"results in {directory}" in forge.said()


def test_methods_that_ended_do_not_run_again_and_simulate_goes_on_too(torn, whole):
    result = fedlab.simulate(resume=torn)
    assert outcome(torn)["afl"] == outcome(whole)["afl"]
    assert [event[:3] for event in story(torn)] == [event[:3] for event in story(whole)]
    assert [event["method"] for event in result.events if event["event"] == "resume"] == ["fedavg"]
    assert fedlab.simulate(resume=torn)["fedadam"]["head_sha256"] == result["fedadam"]["head_sha256"]
    with pytest.raises(BadInput, match="experiment=afl_reviews beside resume="):
        fedlab.simulate("afl_reviews", resume=torn)


def test_a_damaged_result_of_an_earlier_method_is_found_again(forge, torn, whole):
    (path,) = torn.glob("checkpoints/afl/result.*")
    path.write_bytes(path.read_bytes()[:-100])
    assert forge.run(f"resume={torn}") == 0
    assert outcome(torn) == outcome(whole) and story(torn) == story(whole)


def test_without_a_checkpoint_the_run_begins_again(forge, torn, whole):
    shutil.rmtree(torn / "checkpoints")
    assert forge.run(f"resume={torn}", "checkpoint.every=null") == 0
    assert outcome(torn) == outcome(whole) and story(torn) == story(whole)


def test_a_run_that_has_ended_says_so_and_shows_its_table(whole, capsys):
    (whole / "figures" / "accuracy.png").unlink()
    before = (whole / "results.json").stat().st_mtime_ns
    assert main(["run", f"resume={whole}"]) == 0
    printed = capsys.readouterr().out
    assert "has ended" in printed and "fedadam" in printed
    assert (whole / "figures" / "accuracy.png").exists()
    assert (whole / "results.json").stat().st_mtime_ns == before


def test_a_new_run_in_a_used_folder_does_not_go_on(torn, whole, capsys):
    assert main(["run", *SMALL, "methods=[afl]", f"hydra.run.dir={torn}"]) == 0
    assert [event for event in story(whole) if event[1] == "afl"] == story(torn)
    assert list(outcome(torn)) == ["afl"]


def _change(directory: Path, name: str, change) -> None:
    path = directory / name
    text = json.dumps(change(yaml.safe_load(path.read_text())))  # JSON is YAML
    path.write_text(text)


def _another_version(manifest: dict) -> dict:
    return manifest | {"packages": {**manifest["packages"], "fedlab-analytic": "9.9"}}


@pytest.mark.parametrize(
    ("words", "harm", "said"),
    [
        (["clients=5"], None, "clients=5 beside resume="),
        (["hydra.run.dir=elsewhere"], None, "hydra.run.dir=elsewhere beside resume="),
        (["-m"], None, "one run at a time goes on, without options"),
        (["checkpoint.every=0"], None, "checkpoint.every=0 must be a whole number >= 1: rounds"),
        ([], lambda d: shutil.rmtree(d), "is no run directory (overrides.yaml: No such file"),
        ([], lambda d: (d / "config.yaml").unlink(), "is no run directory (config.yaml: No such file"),
        ([], lambda d: (d / "config.yaml").write_text("a: [1"), "config.yaml is damaged"),
        ([], lambda d: (d / "overrides.yaml").write_text("3"), "overrides.yaml holds no list"),
        ([], lambda d: (d / "overrides.yaml").write_text("[1, {a: b}]"), "overrides.yaml is damaged (1 is no"),
        ([], lambda d: _change(d, "config.yaml", lambda c: c | {"engine": 3}), "engine=3 then, {"),
        (["~engine"], None, "engine"),
        ([], lambda d: _change(d, "overrides.yaml", lambda o: [*o, "seed=1"]), "seed=0 then, 1 now"),
        ([], lambda d: _change(d, "config.yaml", lambda c: c | {"name": "other"}), "name=other then, afl_digits now"),
        ([], lambda d: _change(d, "manifest.json", _another_version), "was begun with fedlab-analytic 9.9"),
    ],
)
def test_what_cannot_go_on_is_refused_in_one_message(torn, capsys, words, harm, said):
    if harm:
        harm(torn)
    assert main(["run", f"resume={torn}", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and error.count("fedlab:") == 1


def test_a_folder_of_runs_names_one(torn, capsys):
    assert main(["run", f"resume={torn.parent}"]) == 2
    assert f"it holds 1 runs, give one of them: resume={torn}" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_refused(torn, capsys):
    for name in ("config.yaml", "overrides.yaml"):
        text = (torn / name).read_text()
        (torn / name).write_text(text.replace("rounds: 6", "rounds: 7").replace("rounds=6", "rounds=7"))
    assert main(["run", f"resume={torn}"]) == 2
    assert "is a checkpoint of another experiment or of other settings" in capsys.readouterr().err


def test_a_run_that_is_under_way_is_left_alone(torn, capsys):
    with RunDirectory(torn) as other:
        other.claim()
        assert main(["run", f"resume={torn}"]) == 2
    said = capsys.readouterr().err
    assert "belongs to a run that is still under way" in said and "to continue" not in said


def test_how_to_go_on_can_be_pasted_into_a_shell(torn, capsys):
    moved = torn.rename(torn.with_name("a run"))
    assert main(["run", f"resume={moved}", "checkpoint.every=0"]) == 2
    assert f"to continue: fedlab run 'resume={moved}'\n" in capsys.readouterr().err


def test_the_engine_may_change_and_its_settings_with_it(torn):
    cfg, overrides = reopen(torn, ["engine=ray", "engine.num_workers=1", "engine.chunk=null"])
    assert cfg.engine._target_.endswith("RayGrid") and overrides[-1] == "engine.chunk=null"
    _change(torn, "overrides.yaml", lambda _: overrides)
    cfg, overrides = reopen(torn, ["engine.num_workers=2"])
    assert cfg.engine.num_workers == 2 and cfg.engine.chunk is None
    cfg, overrides = reopen(torn, ["engine=local"])
    assert cfg.engine._target_.endswith("LocalGrid") and not any("engine." in word for word in overrides)
    with pytest.raises(BadInput, match=r"engine\.chunk=None then, 7 now"):
        reopen(torn, ["engine.chunk=7"])


def test_another_version_of_a_library_that_computes_is_said(torn):
    assert changed_versions(torn) is None
    _change(torn, "manifest.json", lambda m: m | {"packages": {**m["packages"], "torch": "1.0"}})
    assert "the run began with torch 1.0, now" in str(changed_versions(torn))
