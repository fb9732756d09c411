"""Every README says what is so: its Python runs, its commands exist, its files are there."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from experiments.commands.flower import command as flower
from experiments.commands.privacy import planned
from experiments.commands.unlearn import command as unlearn
from experiments.config.compose import compose
from experiments.main import COMMANDS, main
from fedlab.data.sources.catalogue import listing

ROOT = Path(__file__).parent.parent
READMES = [ROOT / folder / "README.md" for folder in (".", "experiments", "fedlab", "docker")]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def blocks(language: str) -> list[str]:
    texts = (path.read_text(encoding="utf-8") for path in READMES)
    return [block for text in texts for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)]


def commands() -> list[str]:
    """Return the lines of bash blocks, and what stands in backquotes and reads like one."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    for path in READMES:
        lines += re.findall(r"`((?:fedlab|make) [^`]+)`", path.read_text(encoding="utf-8"))
    return list(dict.fromkeys(line for line in lines if line.strip() and "NAME" not in line))


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0])
def test_python_runs_as_it_stands(code: str, tmp_path: Path) -> None:
    words = [sys.executable, "-W", "error::UserWarning", "-c", code]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


@pytest.mark.parametrize("line", commands())
def test_a_command_exists(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    # A blank before the variables of an environment: PYTHON=python3.12 make demo.
    words = [word for word in shlex.split(line, comments=True) if not re.fullmatch(r"[A-Z]+=\S*", word)]
    match words:
        case ["make", target]:
            assert target in TARGETS
        case ["fedlab", "run", word] if word.startswith("resume="):
            pass  # tests/experiments/runner/test_resume.py runs it
        case ["fedlab", "run", *overrides]:
            composes(overrides)
        case ["fedlab", "--help"] | ["fedlab", "data", "list"] | ["fedlab", "data", "show", _]:
            assert main(words[1:]) == 0
            assert capsys.readouterr().out
        case ["fedlab", "data", "fetch", *names]:
            assert all(listing(name).packages for name in names)
        case ["fedlab", "flower", *options]:
            assert flower.make_context("flower", options).params["folder"] == Path("APP_DIR")
        case ["fedlab", "deploy", "local", *overrides]:
            composes(overrides)
        case ["docker" | "cp" | "docker/make_keys.sh", *_]:
            pass  # tests/deployment/test_docker.py holds the files against what is here
        case ["fedlab", "privacy", "plan", *settings]:
            assert planned(settings).n
        case ["fedlab", "privacy", "audit", *_]:
            pass  # tests/experiments/commands/test_privacy.py audits
        case ["fedlab", "privacy", "show", *_]:
            pass  # tests/experiments/commands/test_privacy.py shows ledgers
        case ["fedlab", "unlearn", *options]:
            assert unlearn.make_context("unlearn", options).params["clients"]
        case ["fedlab", "new", "method"]:
            pass  # tests/experiments/commands/test_new.py begins one
        case ["fedlab", "report", _]:
            assert "report" in COMMANDS
        case ["pip", "install", "-c", "constraints.txt", "-e", what]:
            extras = re.fullmatch(r"\.(?:\[([a-z,]+)\])?", what)
            assert extras and set((extras[1] or "").split(",")) <= {"", *EXTRAS}
        case ["flwr", "run", ".", "--stream"]:
            pass  # tests/test_packaging.py holds what it runs against what an experiment describes
        case _:
            pytest.fail(f"no test knows the command {line!r}")


def composes(words: list[str]) -> None:
    """Compose the first job of a command line, whatever it sweeps over."""
    overrides = [word for word in words if "=" in word and not word.startswith(("hydra", "experiment="))]
    chosen = [word for word in words if word.startswith("experiment=")]
    compose(chosen + [first(override) for override in OverridesParser.create().parse_overrides(overrides)])
    rest = [word for word in words if "=" not in word]
    assert rest in ([], ["-m"], ["--cfg", "job"], ["-m", "..."])


def first(override: Override) -> str:
    if not override.is_sweep_override():
        return override.input_line or ""
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    for link in links:
        assert link.startswith("https://") or (path.parent / link).exists(), link


def test_the_readme_is_short_and_its_picture_small() -> None:
    assert len(READMES[0].read_text(encoding="utf-8").splitlines()) <= 150
    assert all(figure.stat().st_size < 150_000 for figure in (ROOT / "experiments" / "figures").iterdir())


def test_the_tree_names_every_package() -> None:
    (tree,) = re.findall(r"## The tree\n\n```\n(.*?)```", READMES[0].read_text(encoding="utf-8"), re.S)
    named = {line.split("/")[0] for line in tree.splitlines()}
    assert named == {"fedlab", "strategies", "clients", "conf", "experiments", "tests", "docker"}
    assert all((ROOT / name).is_dir() for name in named)


def test_the_house_names_files_that_are_there() -> None:
    text = READMES[2].read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+/`.*?) \| (.+) \|$", text, re.M)
    rooms = [(room, cell) for names, cell in rows for room in re.findall(r"`(\w+)/`", names)]
    houses = {path.parent.name for path in (ROOT / "fedlab").glob("*/__init__.py")}
    assert {room for room, _ in rooms} == houses
    for room, cell in rooms:
        for inner in re.findall(r"`(\w+)/`", cell):
            assert (ROOT / "fedlab" / room / inner / "__init__.py").exists(), f"{room}/{inner}"
    walked = re.findall(r"`(\w+(?:/\w+)+)(?:\.\w+)?`", text)
    assert len(walked) > 10
    for path in walked:
        inside = [folder / path for folder in (ROOT, ROOT / "fedlab", *(ROOT / "fedlab").glob("*"))]
        assert any(found.is_dir() or found.with_suffix(".py").exists() for found in inside), path


def test_the_index_names_every_experiment() -> None:
    index = READMES[1].read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)` \|", index, re.M)
    assert sorted(named) == sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


def test_the_index_names_every_method() -> None:
    index = READMES[1].read_text(encoding="utf-8")
    named = re.findall(r"^\| \[`(\w+)`\]\(\.\./conf/methods/\1\.yaml\) \|", index, re.M)
    assert named == sorted(path.stem for path in (ROOT / "conf" / "methods").glob("*.yaml"))


def test_the_results_are_what_the_command_gives(tmp_path: Path) -> None:
    import fedlab

    rows = re.findall(r"^\| (\w+) \| ([\d.]+) % \|", READMES[0].read_text(encoding="utf-8"), re.M)
    told = {method: float(percent) for method, percent in rows}
    assert set(told) == set(compose([]).methods)
    # The averaging methods take a minute each; the closed form takes seconds.
    result = fedlab.simulate(methods=["afl", "centralised"], directory=tmp_path / "run")
    for method in result.methods:
        assert round(100 * result[method]["accuracy"], 2) == told[method]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["seed"] == 0
