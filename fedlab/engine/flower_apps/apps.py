"""Any Flower app, unmodified, on any Grid: what its pyproject.toml names is loaded as `flwr run` loads it.

An app is a folder: `[tool.flwr.app.components]` says where its ServerApp and its ClientApp are,
`[tool.flwr.app.config]` which run config both see. Importing is once per process: one process runs one app.
"""

from __future__ import annotations

import gc
import importlib
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import click
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.config import flatten_dict, get_project_config, parse_config_args
from flwr.serverapp import Grid, ServerApp

from fedlab.engine.messages.identity import SERVER_NODE
from fedlab.engine.simulation.batched_app import BatchedClientApp
from fedlab.errors import BadInput, ClientFailed, unknown

App = TypeVar("App", ServerApp, ClientApp)

PAIR = re.compile(r"\s*([^\s=]+=('[^']*'|\"[^\"]*\"|\S+)\s*)+")
"""What Flower's parser reads of a --run-config; the rest it passes over in silence."""


@dataclass(frozen=True)
class FlowerApp:
    """What an app's pyproject.toml says.

    Attributes:
        folder: Folder of the app; its modules are imported from there.
        name: Name of the project.
        serverapp, clientapp: Components, as 'module:attribute'.
        run_config: Config that `context.run_config` shows to both: flat, overrides included.
        nodes: Number of nodes that the project itself asks to be simulated with; None where it does not say.
    """

    folder: Path
    name: str
    serverapp: str
    clientapp: str
    run_config: dict[str, Any]
    nodes: int | None = None

    @classmethod
    def read(cls, folder: Path, overrides: Sequence[str] = ()) -> FlowerApp:
        """Read an app without importing anything of it.

        Args:
            folder: Folder with the pyproject.toml.
            overrides: Pairs 'key=value' as in `flwr run --run-config`, in TOML; or one path of a TOML file.

        Raises:
            BadInput: No such folder, no pyproject.toml, no components, no number of nodes where it says one, or an
                override the app does not know.
        """
        folder = folder.expanduser().resolve()
        if not folder.is_dir():
            raise BadInput(f"{folder} is no folder: give the one that holds the app's pyproject.toml")
        try:
            project = get_project_config(folder)
        except FileNotFoundError:
            raise BadInput(
                f"{folder} has no pyproject.toml: a Flower app says there, under [tool.flwr.app], what it is"
            ) from None
        except (ValueError, AttributeError, TypeError) as error:
            wrong = "; ".join(line.strip(" -") for line in str(error).splitlines())
            raise BadInput(
                f"{folder / 'pyproject.toml'} describes no Flower app ({wrong}): [tool.flwr.app.components] "
                "names its serverapp and its clientapp as 'module:attribute'"
            ) from error
        app = project["tool"]["flwr"]["app"]
        components = {name: app["components"].get(name) for name in ("serverapp", "clientapp")}
        for name, reference in components.items():
            if not re.fullmatch(r"[\w.]+:[\w.]+", str(reference)):
                raise BadInput(
                    f"{folder / 'pyproject.toml'}: {name} = {reference!r} names no component: give "
                    "'module:attribute' under [tool.flwr.app.components]"
                )
        config: dict[str, Any] = dict(flatten_dict(app.get("config")))
        for key, value in _parse(overrides).items():
            if key not in config:
                raise unknown("run-config key", key, config)
            config[key] = value
        return cls(folder, project["project"]["name"], **components, run_config=config, nodes=_nodes(project))

    def server(self) -> ServerApp:
        """Import the ServerApp; raises BadInput where that is not possible."""
        return _load(self.serverapp, ServerApp, self.folder)

    def client(self) -> ClientApp:
        """Import the ClientApp; raises BadInput where that is not possible."""
        return FolderClient(str(self.folder), self.clientapp)

    def run(self, grid: Grid) -> Context:
        """Run the ServerApp on a Grid whose nodes run this app's ClientApp, and return its context.

        Raises:
            BadInput: The ServerApp raised; its traceback is in the message.
        """
        context = Context(grid.run.run_id, SERVER_NODE, {}, RecordDict(), dict(self.run_config))
        server = self.server()
        gc.freeze()  # Flower's strategies collect garbage for every reply: not through all that is imported
        try:
            server(grid, context)
        except (BadInput, ClientFailed):
            raise
        except Exception as error:
            trace = error.__traceback__
            while trace and not Path(trace.tb_frame.f_code.co_filename).is_relative_to(self.folder):
                trace = trace.tb_next
            shown = "".join(traceback.format_exception(type(error), error, trace or error.__traceback__))
            raise BadInput(f"the ServerApp of {self.name} raised:\n{shown.rstrip()}") from error
        finally:
            gc.unfreeze()
        return context


class FolderClient(BatchedClientApp):
    """The ClientApp of a folder. It travels to a worker as that folder's name and is imported there."""

    def __init__(self, folder: str, reference: str):
        super().__init__()
        self._origin = (folder, reference)
        self._app = app = _load(reference, ClientApp, Path(folder))
        # A Flower app answers one by one.
        self.modified = not isinstance(app, BatchedClientApp) or app.modified
        if isinstance(app, BatchedClientApp):
            self.answers_together, self.answers_in_total = app.answers_together, app.answers_in_total

    def __call__(self, message: Message, context: Context) -> Message:
        """Run the app, with its mods and its lifespan."""
        return self._app(message, context)

    def __reduce__(self) -> tuple[Any, ...]:
        return FolderClient, self._origin


def _parse(overrides: Sequence[str]) -> dict[str, Any]:
    if len(overrides) == 1 and overrides[0].endswith(".toml") and "=" not in overrides[0]:
        if not Path(overrides[0]).expanduser().is_file():
            raise BadInput(f"run config {overrides[0]}: there is no such file")
    else:
        for pair in overrides:
            if not PAIR.fullmatch(pair):
                raise BadInput(f"run config {pair!r} is no key=value: rounds=3, or name='\"text\"'")
    try:
        return parse_config_args(list(overrides))
    except (click.ClickException, ValueError) as error:
        shown = " ".join(overrides)
        raise BadInput(
            f"run config {shown!r} is no TOML: numbers and true or false stand bare, a text is quoted, and "
            "its quotes are kept from the shell: name='\"text\"'"
        ) from error


def _nodes(project: dict[str, Any]) -> int | None:
    """Return what older projects say: the `num-supernodes` of their default federation."""
    nodes: Any = None
    with suppress(AttributeError, TypeError, KeyError):  # what has another form says nothing
        federations = project["tool"]["flwr"].get("federations", {})
        federation = federations.get(federations.get("default", "local-simulation"), {})
        nodes = federation["options"]["num-supernodes"]
    if nodes is not None and (type(nodes) is not int or nodes < 1):
        raise BadInput(f"num-supernodes = {nodes!r} in pyproject.toml is no number of nodes: give 1 or more")
    return nodes


def _load(reference: str, kind: type[App], folder: Path) -> App:
    name, _, attributes = reference.partition(":")
    _refuse_namesake(name.partition(".")[0], folder)
    app, wrong = None, ""
    try:
        app = attrgetter(attributes)(_imported(name, kind.__name__, folder))
    except AttributeError as error:
        wrong = f": {name!r} has no {error.name!r}"
    if not isinstance(app, kind):
        raise BadInput(
            f"{kind.__name__} {reference!r} of {folder}{wrong or f' is a {type(app).__name__}'}: correct "
            "[tool.flwr.app.components] in its pyproject.toml"
        )
    return app


def _imported(name: str, what: str, folder: Path) -> ModuleType:
    added = str(folder) not in sys.path
    if added:
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if added:
            sys.path.remove(str(folder))
        remedy = "an app must import without raising"
        if isinstance(error, ModuleNotFoundError):
            remedy = f"install what the app needs (pip install {folder}), or correct the name"
        raise BadInput(
            f"the {what} {name!r} of {folder} cannot be imported: {_where(error, folder)}"
            f"{traceback.format_exception_only(error)[-1].strip()}; {remedy}"
        ) from error


def _where(error: BaseException, folder: Path) -> str:
    """Return 'file:line: ' of the app's own last line that was running."""
    lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        lines.append((error.filename, error.lineno))
    own = [(Path(file).relative_to(folder), line) for file, line in lines if Path(file).is_relative_to(folder)]
    return f"{own[-1][0]}:{own[-1][1]}: " if own else ""


def _refuse_namesake(top: str, folder: Path) -> None:
    # Python imports a name once: the app would silently get another's module.
    loaded = sys.modules.get(top)
    if loaded is None or not ((folder / top).is_dir() or (folder / f"{top}.py").is_file()):
        return
    origin = loaded.__file__ or next(iter(loaded.__path__), "")
    if not Path(origin).is_relative_to(folder):
        raise BadInput(
            f"{folder} has a module {top!r}, but {origin} is already loaded under that name: run one app per "
            "process, and rename a package that is called like one of fedlab's"
        )
