"""`fedlab flower`: what it prints, what it returns, and one message for whatever is wrong."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from experiments.main import main
from experiments.runner import flower_app

APPS = Path(__file__).parents[2] / "apps"
NUMBERS, LEGACY = str(APPS / "numbers"), str(APPS / "legacy")


def test_an_app_runs_and_is_summarised(capsys, tmp_path):
    out = f"out='{tmp_path / 'out.npz'}'"
    assert main(["flower", NUMBERS, "--nodes", "6", "--run-config", out, "num-server-rounds=4"]) == 0
    said = capsys.readouterr()
    assert "the model is [" in said.out and not said.err.count("fedlab:")
    summary = said.out.splitlines()[-1]
    assert summary.startswith("numbers on 6 nodes: 4 rounds, 24 train, 24 evaluate messages, 0 errors, ")
    assert re.search(r" [\d.]+ kB to the nodes, [\d.]+ kB back, [\d.]+ s \([\d.]+ s waiting for nodes\)$", summary)
    assert np.load(tmp_path / "out.npz")["losses"].shape == (4,)


def test_the_first_failing_client_is_shown_whole_and_the_rest_are_counted(capsys, tmp_path):
    out = f"out='{tmp_path / 'out.npz'}'"
    assert main(["flower", NUMBERS, "--nodes", "5", "--run-config", "fail='1,3,4'", out]) == 2
    said = capsys.readouterr()
    assert re.search(r"^client [134] failed: Traceback \(most recent call last\):$", said.out, re.M)
    assert said.out.count("Traceback") == 1 and "numbers_app/client_app.py" in said.out
    assert re.search(r"^ValueError: partition [134] holds no numbers$", said.out, re.M)
    assert said.out.splitlines()[-1].startswith(
        "numbers on 5 nodes: 3 rounds, 15 train, 15 evaluate messages, 9 errors"
    )
    assert said.err.endswith("fedlab: 9 of 30 messages failed: the first one's traceback is above\n")
    assert (tmp_path / "out.npz").exists()  # the run went on, as under Flower


def test_a_server_app_that_raises_because_its_clients_did_comes_after_their_traceback(capsys):
    assert main(["flower", NUMBERS, "--run-config", "fail='0,1'"]) == 2
    said = capsys.readouterr()
    assert said.out.count("Traceback") == 1 and said.out.count("holds no numbers") == 2
    assert "numbers on 2 nodes: 3 rounds, 6 train, 6 evaluate messages, 6 errors" in said.out
    assert "fedlab: the ServerApp of numbers raised:\nTraceback" in said.err
    assert said.err.endswith("ValueError: not enough values to unpack (expected 1, got 0)\n")


def test_an_older_app_runs_on_as_many_nodes_as_its_project_says(capsys):
    assert main(["flower", LEGACY]) == 0
    assert "legacy on 4 nodes: 12 train, 12 evaluate messages, 0 errors" in capsys.readouterr().out
    assert main(["flower", LEGACY, "--nodes", "5"]) == 0
    # FedAvg asks all of those that are there.
    assert "legacy on 5 nodes: 15 train, 15 evaluate messages, 0 errors" in capsys.readouterr().out


def test_two_nodes_are_what_flower_simulates_when_nobody_says_how_many(capsys):
    assert main(["flower", NUMBERS]) == 0
    assert "numbers on 2 nodes: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/nowhere"], "/nowhere is no folder: give the one that holds the app's pyproject.toml"),
        ([str(APPS)], f"{APPS} has no pyproject.toml"),
        ([NUMBERS, "--nodes", "0"], "--nodes 0: a federation needs at least 1 node"),
        ([NUMBERS, "--nodes", "-4"], "--nodes -4: a federation needs at least 1 node"),
        ([NUMBERS, "--workers", "2"], "--workers 2: the local engine has none, add --engine ray"),
        ([NUMBERS, "--engine", "ray", "--workers", "999"], "--workers 999 lies outside 1.."),
        ([NUMBERS, "--engine", "ray", "--workers", "0"], "--workers 0 lies outside 1.."),
        ([NUMBERS, "--run-config", "num-server-ruonds=1"], "did you mean 'num-server-rounds'?"),
        ([NUMBERS, "--run-config", "fail=text"], "a text is quoted"),
        ([NUMBERS, "--run-config", "data.size=-1"], "the ServerApp of numbers raised:\nTraceback"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(capsys, words, said):
    assert main(["flower", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("fedlab: ") == 1


@pytest.mark.parametrize("side", ["server", "client"])
def test_an_app_that_raises_at_import_is_refused_before_ray_starts(capsys, tmp_path, side, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    app = shutil.copytree(LEGACY, tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    package = (app / "legacy_app").rename(app / f"broken_{side}")
    project = (app / "pyproject.toml").read_text()
    (app / "pyproject.toml").write_text(project.replace("legacy_app", package.name))
    (package / f"{side}_app.py").write_text("import json\n\napp = json.loads('none')\n")
    assert main(["flower", str(app), "--engine", "ray"]) == 2
    said = capsys.readouterr()
    where = f"broken_{side}/{side}_app.py:3: json.decoder.JSONDecodeError: Expecting value"
    assert where in said.err and "Traceback" not in said.err and not said.out
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "APP_DIR"),
        ([NUMBERS, "--engine", "rya"], "'rya' is not one of 'local', 'ray'"),
        ([NUMBERS, "--nodes", "x"], "'x'"),
    ],
)
def test_words_that_mean_nothing_are_met_with_the_usage(capsys, words, said):
    assert main(["flower", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and "See fedlab flower --help" in error and error.count("\n") == 1


def test_a_long_run_says_where_it_is_in_a_log_too(capsys, monkeypatch):
    monkeypatch.setattr(flower_app, "SILENCE", 0.0)
    assert main(["flower", NUMBERS, "--nodes", "3"]) == 0
    said = capsys.readouterr().out
    for number in (1, 2, 3):
        for what in ("train", "evaluate"):
            assert f"round {number}: {what}: 3 of 3 replies\n" in said


def test_on_a_terminal_a_line_shows_progress_and_what_the_app_says_stays_above(tmp_path):
    """In a terminal of its own: what was written to it is what a user would have seen."""
    command = [sys.executable, "-m", "experiments.main", "flower", NUMBERS, "--nodes", "4"]
    controller, terminal = pty.openpty()
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True)
    os.close(terminal)
    said, deadline = b"", time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            if select.select([controller], [], [], 0.2)[0]:
                try:
                    said += os.read(controller, 65536)
                except OSError:  # the other end is closed
                    break
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(controller)
    text = said.decode()
    assert "round 3: evaluate" in text and "4/4" in text
    plain = [line for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).splitlines() if line]
    assert "INFO :      aggregate_train: Received 4 results and 0 failures" in map(str.rstrip, plain)
    assert any(line.startswith("the model is [") for line in plain)
    assert plain[-1].startswith("numbers on 4 nodes: 3 rounds, 12 train, 12 evaluate messages, 0 errors")
