"""Any Flower app is read and loaded as Flower does it, and what is wrong with one is said in one message."""

import gc
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedlab.engine.flower_apps.apps import FlowerApp  # isort: skip  # first: it switches Flower's network calls off
from flwr.app import Message, RecordDict

from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.errors import BadInput

APPS = Path(__file__).parents[2] / "apps"
PROJECT = """
[project]
name = "mine"
version = "1"
[tool.flwr.app]
publisher = "me"
"""
COMPONENTS = """
[tool.flwr.app.components]
serverapp = "mine.server:app"
clientapp = "mine.client:app"
"""
SERVER = """
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    raise KeyError(f"no such table: {context.run_config}")
"""
CLIENT = """
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query()
def query(message, context):
    return Message(RecordDict({"told": ConfigRecord(context.run_config)}), reply_to=message)
"""


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """The folder of an app that works until its ServerApp runs; whatever is imported is forgotten again."""
    path, modules = list(sys.path), set(sys.modules)
    (tmp_path / "pyproject.toml").write_text(PROJECT + COMPONENTS + "[tool.flwr.app.config]\nrounds = 3\n")
    (tmp_path / "mine").mkdir()
    for name, source in {"__init__": "", "server": SERVER, "client": CLIENT}.items():
        (tmp_path / "mine" / f"{name}.py").write_text(source)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_an_app_is_what_its_pyproject_says():
    app = FlowerApp.read(APPS / "numbers")
    assert (app.name, app.folder, app.nodes) == ("numbers", APPS / "numbers", None)
    assert (app.serverapp, app.clientapp) == ("numbers_app.server_app:app", "numbers_app.client_app:app")
    assert app.run_config == {
        **{"num-server-rounds": 3, "min-nodes": 2, "fail": "", "out": ""},
        **{"data.size": 5, "data.shift": 0.5},
    }
    assert FlowerApp.read(APPS / "legacy").nodes == 4


@pytest.mark.parametrize(
    "overrides",
    [
        ["num-server-rounds=7", "data.shift=1.5", "out='a b'"],
        ["num-server-rounds=7 data.shift=1.5 out='a b'"],
        ["run.toml"],
    ],
)
def test_overrides_are_written_as_for_flwr_run(overrides, tmp_path, monkeypatch):
    (tmp_path / "run.toml").write_text("num-server-rounds = 7\nout = 'a b'\n[data]\nshift = 1.5\n")
    monkeypatch.chdir(tmp_path)
    before = FlowerApp.read(APPS / "numbers").run_config
    changed = {"num-server-rounds": 7, "data.shift": 1.5, "out": "a b"}
    assert FlowerApp.read(APPS / "numbers", overrides).run_config == before | changed


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["ruonds=3"], "unknown run-config key 'ruonds': known are rounds; did you mean 'rounds'?"),
        (["rounds"], "run config 'rounds' is no key=value: rounds=3, or name="),
        (["rounds=3 and"], "run config 'rounds=3 and' is no key=value"),
        (["rounds=", "3"], "run config 'rounds=' is no key=value"),
        (["rounds=three"], "run config 'rounds=three' is no TOML: .* a text is quoted"),
        (["rounds=[1,2]"], r"run config 'rounds=\[1,2\]' is no TOML"),
        (["absent.toml"], "run config absent.toml: there is no such file"),
    ],
)
def test_an_override_that_says_nothing_is_refused(mine, overrides, said):
    with pytest.raises(BadInput, match=said):
        FlowerApp.read(mine, overrides)


@pytest.mark.parametrize(
    ("project", "said"),
    [
        (PROJECT, r"describes no Flower app \(.*Missing \[tool.flwr.app.components\] section\)"),
        (PROJECT + "[tool.flwr.app.components]\nserverapp = 'a:b'", '"clientapp" missing in'),
        (PROJECT + "[tool.flwr.app.components]\nagentapp = 'a:b'", "serverapp = None names no component"),
        (PROJECT + COMPONENTS.replace("client:app", "client"), "clientapp = 'mine.client' names no component"),
        (PROJECT + COMPONENTS + "[tool.flwr.app.config]\nsizes = [1]", "value for key sizes needs to be of type"),
        ("[project]\nname = 'mine'", r'"version" missing in \[project\]; Missing \[tool.flwr.app\] section'),
        ("name =", "describes no Flower app"),
    ],
)
def test_a_folder_that_holds_no_app_is_refused(tmp_path, project, said):
    (tmp_path / "pyproject.toml").write_text(project)
    with pytest.raises(BadInput, match=said) as refused:
        FlowerApp.read(tmp_path)
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("federations", "said"),
    [
        ("federations = 3", None),
        ("federations.default = [1]", None),
        ("federations.local-simulation.options.num-supernodes = 7", 7),
        ("federations.local-simulation.options.num-supernodes = 'seven'", "num-supernodes = 'seven'"),
        ("federations.local-simulation.options.num-supernodes = 0", "num-supernodes = 0"),
    ],
)
def test_how_many_nodes_a_project_asks_for_is_read_with_care(tmp_path, federations, said):
    (tmp_path / "pyproject.toml").write_text(f"{PROJECT}{COMPONENTS}[tool.flwr]\n{federations}\n")
    if not isinstance(said, str):
        assert FlowerApp.read(tmp_path).nodes == said
        return
    with pytest.raises(BadInput, match=f"{said} in pyproject.toml is no number of nodes"):
        FlowerApp.read(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match=f"{tmp_path} has no pyproject.toml"):
        FlowerApp.read(tmp_path)
    with pytest.raises(BadInput, match=f"{tmp_path / 'no'} is no folder"):
        FlowerApp.read(tmp_path / "no")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("\nimport json\nx = {}\nx['a']\n", r"mine/client\.py:4: KeyError: 'a'; an app must import without"),
        ("\nimport json\njson.loads('{')\n", r"mine/client\.py:3: json\S*JSONDecodeError: Expecting property"),
        ("\nfrom mine import broken\n", r"mine/broken\.py:2: ZeroDivisionError: division by zero"),
        ("\n\ndef f(:\n", r"mine/client\.py:3: SyntaxError: invalid syntax"),
        ("import not_installed_here\n", r"client\.py:1: ModuleNotFoundError: .*; install what the app needs"),
        ("raise SystemExit('no data')\n", r"mine/client\.py:1: SystemExit: no data"),
        ("ap = 3\n", r"ClientApp 'mine\.client:app' of .*: 'mine\.client' has no 'app': correct \[tool"),
        ("app = 3\n", r"ClientApp 'mine\.client:app' of .* is a int: correct \[tool"),
    ],
)
def test_an_app_that_cannot_be_imported_is_refused_with_its_own_last_line(mine, source, said):
    (mine / "mine" / "client.py").write_text(source)
    (mine / "mine" / "broken.py").write_text("x = 0\n1 / x\n")
    with pytest.raises(BadInput, match=said) as refused:
        FlowerApp.read(mine).client()
    assert "\n" not in str(refused.value)


def test_a_module_of_the_same_name_from_elsewhere_is_not_taken_for_the_apps(mine, tmp_path_factory):
    FlowerApp.read(mine).client()
    other = tmp_path_factory.mktemp("other")
    (other / "pyproject.toml").write_text(PROJECT + COMPONENTS)
    (other / "mine").mkdir()
    with pytest.raises(BadInput, match=f"{mine}.* is already loaded under that name: run one app per process"):
        FlowerApp.read(other).client()


def test_a_client_app_travels_as_the_name_of_its_folder(mine):
    app = FlowerApp.read(mine, ["rounds=8"])
    sent = pickle.dumps(app.client())
    assert str(mine).encode() in sent and len(sent) < 1000
    with LocalGrid(pickle.loads(sent), 2, app.run_config) as grid:
        replies = list(grid.send_and_receive([Message(RecordDict(), k, "query") for k in (2, 3)]))
    assert [dict(reply.content["told"]) for reply in replies] == [{"rounds": 8}] * 2


def test_a_server_app_that_raises_is_shown_from_its_own_first_line(mine):
    app = FlowerApp.read(mine)
    with LocalGrid(app.client(), 2) as grid, pytest.raises(BadInput) as refused:
        app.run(grid)
    said = str(refused.value)
    assert said.startswith("the ServerApp of mine raised:\nTraceback (most recent call last):\n")
    assert said.endswith("KeyError: \"no such table: {'rounds': 3}\"")
    assert "mine/server.py" in said and "engine/apps.py" not in said
    assert gc.get_freeze_count() == 0


def test_an_app_runs_on_any_grid_and_leaves_its_context(mine):
    remembers = "context.state['told'] = ConfigRecord({'nodes': list(grid.get_node_ids())})"
    source = SERVER.partition("    raise")[0] + f"    {remembers}\n"
    (mine / "mine" / "server.py").write_text(f"from flwr.app import ConfigRecord\n{source}")
    app = FlowerApp.read(mine)
    with LocalGrid(app.client(), 2) as grid:
        context = app.run(grid)
        assert (context.run_id, context.node_id) == (grid.run.run_id, 1)
    assert context.state["told"]["nodes"] == [2, 3] and context.run_config == {"rounds": 3}
