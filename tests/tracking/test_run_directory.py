"""The run directory: whole lines, whole files, and one clear message when the disk refuses."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from fedlab.errors import BadInput
from fedlab.tracking import provenance
from fedlab.tracking.run_directory import RunDirectory, parse_events, plain, remove, write_atomically


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_events_are_on_disk_before_the_listeners_hear_of_them(tmp_path):
    run = RunDirectory(tmp_path / "a" / "b")
    heard = []
    run.subscribe(lambda event: heard.append((event, lines(run.path)[-1])))
    run.event("round", method="afl", round=1, accuracy=0.5)
    event, written = heard[0]
    assert event == written
    assert (written["event"], written["round"], written["accuracy"]) == ("round", 1, 0.5)
    assert isinstance(written["time"], float)


def test_ticks_reach_listeners_only(tmp_path):
    with RunDirectory(tmp_path) as run:
        heard = []
        run.subscribe(heard.append)
        run.tick(method="fedavg", round=3, done=57, total=100)
        run.tick(event="features", done=1, total=2)
        run.tick("features", done=2, total=2)
    assert [event["event"] for event in heard] == ["progress", "features", "features"]
    assert heard[0]["done"] == 57
    assert lines(tmp_path) == []


def test_a_field_may_be_called_kind(tmp_path):
    with RunDirectory(tmp_path) as run:
        run.event("study", kind="dummy")
    assert lines(tmp_path)[0]["kind"] == "dummy"


def test_values_become_plain_json(tmp_path):
    run = RunDirectory(tmp_path)
    value = {
        "nan": float("nan"),
        "inf": np.float32("inf"),
        "array": np.array([[1.0, np.nan]]),
        "scalar": np.int64(3),
        "flag": np.bool_(True),
        "zero_d": np.array(2),
        7: (Path("a"), {1}, date(2024, 1, 2)),
    }
    expected = {
        "nan": None,
        "inf": None,
        "array": [[1.0, None]],
        "scalar": 3,
        "flag": True,
        "zero_d": 2,
        "7": ["a", [1], "2024-01-02"],
    }
    assert json.loads(run.write_json("x.json", value).read_text()) == expected
    run.event("round", accuracy=np.float64("nan"), loss=np.float32(0.5))
    assert lines(tmp_path)[0]["accuracy"] is None
    assert lines(tmp_path)[0]["loss"] == 0.5


def test_what_json_cannot_say_is_refused_by_type_and_leaves_nothing(tmp_path):
    run = RunDirectory(tmp_path)
    with pytest.raises(TypeError, match="object"):
        run.write_json("x.json", {"a": object()})
    with pytest.raises(TypeError, match="longdouble"):
        plain(np.longdouble(1))
    assert names(tmp_path) == ["metrics.jsonl"]


def test_reopening_closes_a_torn_line_and_keeps_the_rest(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"event": "round", "round": 1}\n{"event": "rou')
    with RunDirectory(tmp_path) as run:
        run.event("round", round=2)
    events = parse_events((tmp_path / "metrics.jsonl").read_bytes().splitlines())
    assert [event["round"] for event in events] == [1, 2]


def test_a_killed_run_keeps_every_event_it_reported(tmp_path):
    code = """
import sys
from pathlib import Path
from fedlab.tracking.run_directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]))
number = 0
while True:
    run.event("round", round=number, padding="x" * 500)
    run.write_json("results.json", {"round": number, "padding": ["x" * 500] * 50})
    print(number, flush=True)
    number += 1
"""
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(20):
            last = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
    rounds = [event["round"] for event in parse_events((tmp_path / "metrics.jsonl").read_bytes().splitlines())]
    assert rounds[: last + 1] == list(range(last + 1))
    assert json.loads((tmp_path / "results.json").read_text())["round"] >= last


def test_many_threads_write_whole_lines(tmp_path):
    run = RunDirectory(tmp_path)
    work = [
        threading.Thread(target=lambda i=i: [run.event("round", thread=i, round=r) for r in range(50)])
        for i in range(8)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert sorted((e["thread"], e["round"]) for e in lines(tmp_path)) == [(i, r) for i in range(8) for r in range(50)]


def test_a_listener_may_emit_an_event_itself(tmp_path):
    run = RunDirectory(tmp_path)
    run.subscribe(lambda event: run.event("warning", message="low") if event["event"] == "round" else None)
    run.event("round", round=1)
    assert [event["event"] for event in lines(tmp_path)] == ["round", "warning"]


def test_a_folder_that_cannot_be_made_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"file/run.*hydra\.run\.dir=") as caught:
        RunDirectory(tmp_path / "file" / "run")
    assert "\n" not in str(caught.value)


def test_a_full_disk_at_an_event_is_named_and_the_listeners_do_not_hear_it(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    run = RunDirectory(tmp_path)
    heard = []
    run.subscribe(heard.append)
    with pytest.raises(BadInput, match=r"metrics\.jsonl: No space left"):
        run.event("round", round=1)
    assert heard == []


@contextmanager
def small_files():
    """Files of this process end at 1000 bytes, as on a disk that fills in the middle of a write."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, former[1]))
    try:
        yield
    finally:
        # At once, not when the test is torn down: what reports the test may be writing to a file.
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_within_a_line_leaves_only_whole_lines(tmp_path):
    run = RunDirectory(tmp_path)
    with small_files():
        run.event("round", round=0, padding="x" * 700)
        with pytest.raises(BadInput, match=r"metrics\.jsonl"):
            run.event("round", round=1, padding="x" * 700)
        run.event("round", round=2)
    assert [event["round"] for event in lines(tmp_path)] == [0, 2]


def test_a_disk_that_fills_within_a_file_leaves_the_former_file(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_json("results.json", {"accuracy": 0.5})
    with small_files(), pytest.raises(BadInput, match=r"results\.json.*hydra\.run\.dir="):
        run.write_json("results.json", ["x" * 5000])
    assert json.loads((tmp_path / "results.json").read_text()) == {"accuracy": 0.5}
    assert names(tmp_path) == ["metrics.jsonl", "results.json"]


def test_an_interrupt_within_a_write_leaves_the_former_file(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path)
    run.write_text("config.yaml", "old")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.write_text("config.yaml", "new")
    assert (tmp_path / "config.yaml").read_text() == "old"
    assert names(tmp_path) == ["config.yaml", "metrics.jsonl"]


def test_files_go_into_subfolders_but_not_outside(tmp_path):
    run = RunDirectory(tmp_path / "run")
    assert run.write_bytes("figures/a.png", b"png").read_bytes() == b"png"
    for name in ("../a.png", str(tmp_path / "a.png")):
        with pytest.raises(BadInput, match="only inside"):
            run.write_bytes(name, b"")


def test_closing_twice_is_harmless_and_a_late_event_is_refused(tmp_path):
    run = RunDirectory(tmp_path)
    run.close()
    run.close()
    with pytest.raises(BadInput, match="closed"):
        run.event("round")


def test_the_manifest_names_versions_and_seeds(tmp_path):
    manifest = json.loads(RunDirectory(tmp_path).manifest(seeds={"seed": np.int64(7)}).read_text())
    assert manifest["seeds"] == {"seed": 7}
    assert manifest["packages"]["numpy"] == np.__version__
    assert {"python", "git", "host", "platform", "cpus", "command", "time"} <= set(manifest)


def test_the_commit_is_that_of_the_codes_own_checkout(tmp_path):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    source = tmp_path / "code.py"
    source.write_text("a = 1\n")
    assert provenance.checkout(source) is None
    git("init", "-q")
    (tmp_path / "other.py").write_text("")
    git("add", "other.py")
    git("commit", "-q", "-m", "first")
    assert provenance.checkout(source) is None, "an untracked file is an installation, not the checkout's code"
    git("add", "code.py")
    git("commit", "-q", "-m", "second")
    assert provenance.checkout(source) == {"sha": git("rev-parse", "HEAD"), "dirty": False}
    source.write_text("a = 2\n")
    assert provenance.checkout(source) == {"sha": git("rev-parse", "HEAD"), "dirty": True}


def test_recording_loads_neither_torch_nor_plots():
    heavy = {"torch", "flwr", "ray", "matplotlib", "rich"}
    code = f"import sys, fedlab.tracking.run_directory; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_rewound_run_forgets_what_came_after_the_last_event_to_keep(tmp_path):
    with RunDirectory(tmp_path) as run:
        for number in range(5):
            run.event("round", round=number)
        run.rewind(lambda event: event["round"] <= 2)
        run.event("round", round=30)
        assert [event["round"] for event in lines(tmp_path)] == [0, 1, 2, 30]
        run.rewind(lambda event: False)
        run.event("round", round=0)
    assert [event["round"] for event in lines(tmp_path)] == [0]


def test_a_claimed_folder_is_free_again_when_its_owner_closes_it_or_dies(tmp_path):
    code = """
import sys, time
from pathlib import Path
from fedlab.tracking.run_directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]))
run.claim()
print("mine", flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    with RunDirectory(tmp_path) as run:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stdout.readline()
            with pytest.raises(BadInput, match=r"belongs to a run that is still under way: wait for its end"):
                run.claim()
            child.kill()
        run.claim()
    with RunDirectory(tmp_path) as run:
        run.claim()


def test_only_what_matches_is_removed_and_folders_only_when_they_are_empty(tmp_path):
    for name in ("a/x.part", "a/b/y.part", "c/z.part", "c/mine.txt", "x.part", "mine.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    remove(tmp_path, ["*/*.part", "*/*/*.part", "*/*/", "*/", "none"])
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["c", "c/mine.txt", "mine.txt", "x.part"]


def test_a_secret_is_its_owners_alone_from_the_first_byte(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(os.fstat(descriptor).st_mode & 0o777))
    write_atomically(tmp_path / "key", b"secret", mode=0o600)
    assert seen == [0o600] and (tmp_path / "key").read_bytes() == b"secret"
