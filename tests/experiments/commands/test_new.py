"""`fedlab new method`: what it writes passes the checks and the common suite, and what it refuses changes nothing."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.commands.new import FILES, INDEX, ROOT, SUITE, method_texts, write_together
from experiments.main import main
from fedlab.errors import BadInput

NAME = "my_own_2_" + "w" * 31  # as long as is let in
FOLDERS = ("fedlab", "strategies", "clients", "conf", "experiments", "tests")


@pytest.fixture
def checkout(tmp_path):
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "figures"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def listing(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".pyc" not in path.name}


def run(checkout, *words):
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PYTHONPATH": str(checkout), "PATH": tools}
    done = subprocess.run(words, cwd=checkout, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_new_method_passes_the_checks_and_the_common_suite_as_it_was_written(checkout):
    before = listing(checkout)
    title, paper = "W" * 60, f"https://example.org/{'x' * 80}"  # the longest that are let in
    words = ("--title", title, "--paper", paper)
    said = run(checkout, sys.executable, "-m", "experiments.main", "new", "method", NAME, *words)
    after = listing(checkout)
    new = [path.replace("discriminant", NAME) for path in FILES]
    assert said.splitlines()[:6] == [*new, SUITE, INDEX, f"next: fedlab run methods=[{NAME}]"]
    changed = {path for path in after if after[path] != before.get(path)}
    assert changed == {checkout / path for path in (*new, SUITE, INDEX)}
    for path in new:
        text = after[checkout / path].decode()
        assert paper in text and not re.search("discriminant|Dudoit", text, re.I)
    for path in (SUITE, INDEX):
        rest = [line for line in after[checkout / path].decode().splitlines() if NAME not in line]
        assert rest == before[checkout / path].decode().splitlines()
    run(checkout, "ruff", "check", ".")
    run(checkout, "ruff", "format", "--check", ".")
    run(checkout, "lint-imports", "--no-cache")
    run(checkout, "basedpyright", "--pythonpath", sys.executable, *new[:2])
    suite = ("tests/conformance/test_methods.py", "-k", f"{NAME} or every_method_has_a_row")
    assert "4 passed" in run(checkout, sys.executable, "-m", "pytest", "-v", *suite)


@pytest.mark.parametrize("name", ["aaa", "zzz", "random", "my_discriminant"])
def test_its_row_keeps_the_lists_in_order(name):
    texts = method_texts(ROOT, name)
    for path, row in ((SUITE, r'    Method\("(\w+)"'), (INDEX, r"\| \[`(\w+)`\]")):
        names = re.findall(f"^{row}", texts[path], re.M)
        assert name in names and names == sorted(names)
    assert (
        f"strategies.{name}.{'MyDiscriminant' if '_' in name else name.capitalize()}"
        in texts[f"conf/methods/{name}.yaml"]
    )


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["afl"], "'afl' is in clients/afl.py, strategies/afl.py, conf/methods/afl.yaml"),
        (["app"], "in clients/app.py, strategies/app.py already: take another name"),
        (["fedavg"], "in conf/methods/fedavg.yaml, tests/conformance/methods.py, experiments/README.md already"),
        (["class"], "'class' cannot name a method: take words of lower-case letters"),
        (["none"], "cannot name a method"),
        (["exception"], "cannot name a method"),
        (["yes"], "none of Python's, YAML's or Hydra's own, e.g. nearest_mean"),
        (["defaults"], "cannot name a method"),
        (["NearestMean"], "cannot name a method"),
        (["nearest-mean"], "cannot name a method"),
        (["../mean"], "cannot name a method"),
        (["a" * 41], "cannot name a method"),
        (["_mean"], "cannot name a method"),
        (["2nd"], "cannot name a method"),
        ([""], "cannot name a method"),
        (["learner"], "'learner' would name a class as one that clients/discriminant.py imports"),
        (["mean", "--title", 'a "mean"'], "is no line of 1 to 60 characters"),
        (["mean", "--title", "two\nlines"], "is no line of 1 to 60 characters"),
        (["mean", "--title", "W" * 61], "is no line of 1 to 60 characters"),
        (["mean", "--title", ""], "is no line of 1 to 60 characters"),
        (["mean", "--paper", "arxiv"], "paper 'arxiv' is no https address"),
        ([], "missing argument 'NAME'"),
    ],
)
def test_what_cannot_be_is_refused_with_one_message(words, why, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("experiments.commands.new.write_together", lambda _: pytest.fail("it wrote"))
    assert main(["new", "method", *words]) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("fedlab:") == 1


def test_another_folder_is_no_place_for_a_method(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.commands.new.write_together", lambda _: pytest.fail("it wrote"))
    assert main(["new", "method", "mean"]) == 2
    assert f"this is {tmp_path}, and fedlab runs from {ROOT}" in capsys.readouterr().err
    monkeypatch.setattr("experiments.commands.new.ROOT", tmp_path)
    assert main(["new", "method", "mean"]) == 2
    assert "no checkout to add a method to, for it has no clients/discriminant.py" in capsys.readouterr().err


def test_a_list_that_was_rewritten_is_left_alone(checkout):
    (checkout / SUITE).write_text("METHODS = []\n")
    with pytest.raises(BadInput, match=f"{SUITE} has no list of methods to add 'mean' to"):
        method_texts(checkout, "mean")


def test_where_one_file_cannot_be_written_none_is(tmp_path):
    (tmp_path / "kept").write_text("old")
    with pytest.raises(BadInput, match="nothing was written"):
        write_together({tmp_path / "kept": "new", tmp_path / "new": "new", tmp_path / "missing" / "file": "new"})
    assert {path: path.read_text() for path in tmp_path.iterdir()} == {tmp_path / "kept": "old"}
