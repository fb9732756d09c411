"""The wheel runs on its own, and the package is cheap to import."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import import_module
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("fedlab", "strategies", "clients", "experiments")


def run(*command: object, cwd: Path) -> str:
    # Without the variables that would put the checkout on the path.
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COVERAGE"))}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an environment of its own and return its folder.

    The dependencies come from this interpreter by a path line. Python reads no .pth file of a folder named
    so: the line that leads an editable install to the checkout stays without effect.
    """
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False, symlinks=True)
    paths = {"base": str(home), "platbase": str(home)}
    site = Path(sysconfig.get_path("purelib", vars=paths))
    dependencies = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (site / "dependencies.pth").write_text("\n".join(dependencies))
    target = ("--python", home / "bin" / "python", "install", "--quiet", "--no-deps", "--no-index")
    run(sys.executable, "-m", "pip", *target, "--force-reinstall", wheel, cwd=home)
    return home


def test_the_wheel_holds_the_packages_and_the_configuration_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {*PACKAGES, f"{wheel.name.split('-py3')[0]}.dist-info"}
    expected = {f"fedlab/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert expected and expected <= set(names)
    modules = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert modules | {"fedlab/report/page.html", "fedlab/report/table.html"} <= set(names)
    kinds = {Path(name).suffix for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert kinds <= {".py", ".yaml", ".html", ".md", ".json", ".toml"}
    assert not [name for name in names if re.search(r"(^|/)(tests?|outputs|__pycache__)/", name)]


def test_an_installed_wheel_is_imported_from_where_it_was_installed(installed: Path, tmp_path: Path) -> None:
    code = f"import {', '.join(PACKAGES)}, sys, json; from experiments.config.compose import configuration; " + (
        f"print(json.dumps([[m.__file__ for m in ({', '.join(PACKAGES)})], str(configuration()), sys.path]))"
    )
    files, configuration, path = json.loads(run(installed / "bin" / "python", "-c", code, cwd=tmp_path))
    for file in [*files, configuration]:
        assert Path(file).is_relative_to(installed), file
    assert str(ROOT) not in path


@pytest.mark.slow
def test_an_installed_wheel_runs_outside_a_checkout(installed: Path, tmp_path: Path) -> None:
    words = ("run", "methods=[afl]", "clients=20", "features.expansion.width=128", "hydra.run.dir=here")
    run(installed / "bin" / "fedlab", *words, cwd=tmp_path)
    results = json.loads((tmp_path / "here" / "results.json").read_text())
    assert (results["experiment"], results["strategy"], results["clients"]) == ("afl_digits", "AFL", 20)
    assert results["accuracy"] > 0.9


def test_importing_fedlab_is_cheap(tmp_path: Path) -> None:
    code = (
        "import time; start = time.perf_counter(); import fedlab; took = time.perf_counter() - start\n"
        "import sys, json; print(json.dumps([took, sorted(sys.modules)]))"
    )
    took, modules = json.loads(run(sys.executable, "-c", code, cwd=tmp_path))
    print(f"import fedlab took {took:.3f} s")
    heavy = {"torch", "ray", "flwr", "matplotlib", "hydra", "numpy", "scipy", "sklearn", "transformers", "rich"}
    assert not heavy & set(modules)


def test_every_file_states_the_same_version() -> None:
    import fedlab

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert citation and fedlab.__version__ == project["version"] == citation.group(1)


def test_every_dependency_is_pinned_and_no_pin_names_a_machine() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines), lines
    pinned = {normal(line.split("==")[0]) for line in lines}
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    names = {normal(match.group()) for line in wanted if (match := re.match(r"[A-Za-z0-9._-]+", line))}
    assert names - pinned == {project["name"]}


def test_flower_runs_what_an_experiment_describes() -> None:
    from experiments.config.compose import compose
    from experiments.runner.compare import describe

    app = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert json.loads(app["config"]["config"]) == describe(compose(["clients=2", "methods=[afl]"]), "afl")
    for component in app["components"].values():
        module, _, name = component.partition(":")
        assert hasattr(import_module(module), name)


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.M)
    shown = run("make", "--no-print-directory", cwd=ROOT)
    assert re.findall(r"^  make ([\w-]+) +\S", shown, re.M) == phony.split()


FLOATS = (
    "tests/gradient tests/features tests/clients/test_sgd.py tests/engine/aggregation/test_averaging.py "
    "tests/privacy/dpsgd/test_private_gradient.py"
)
"""What compares floats, and so runs as other processors compute too."""


def test_ci_runs_the_test_command_and_the_slow_tests_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert commands == [
        "set -euo pipefail",
        'cd "$(dirname "${BASH_SOURCE[0]}")/.."',
        "make test",
        ".ci/instruction_sets " + FLOATS,
        "make test-slow",
    ]


def normal(name: str) -> str:
    return re.sub(r"[._-]+", "-", name).lower()
