"""A SuperLink as a user sees it: `flwr` with the right address and certificate, to register nodes and to run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clients
import fedlab
import strategies
from experiments.deploy.probe import NoAnswer, probe
from experiments.deploy.process import Process, last_words
from fedlab.engine import OFFLINE
from fedlab.errors import BadInput
from fedlab.tracking.run_directory import write_atomically

NAME = "federation"
"""Of the connection in Flower's configuration file."""
REGISTERED_BEFORE = "already in use"


@dataclass(frozen=True)
class Host:
    """A machine.

    Attributes:
        address: Address at which the others reach it.
        enter: Words before a command that make it run there; none for this machine.
    """

    address: str = "127.0.0.1"
    enter: tuple[str, ...] = ()


@dataclass(frozen=True)
class Connection:
    """How to reach a SuperLink.

    Attributes:
        address: Address as 'host:port'.
        authority: Certificate that the SuperLink's own is signed with.
        home: Folder for Flower's own files, not shared with another SuperLink.
        host: Machine on which `flwr` runs.
    """

    address: str
    authority: Path
    home: Path
    host: Host = Host()

    def probe(self) -> None:
        """Return if the SuperLink answers and its certificate matches; see `experiments.deploy.probe.probe`."""
        if not self.host.enter:
            return probe(self.address, self.authority)
        # Seen from the other machine.
        words = [sys.executable, "-m", "experiments.main", "deploy", "probe", self.address]
        words += ["--root-certificates", str(self.authority)]
        done = subprocess.run([*self.host.enter, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            kind = NoAnswer if "no answer from" in done.stderr else BadInput
            raise kind(done.stderr.strip().removeprefix("fedlab: "))

    def register(self, public: Path) -> None:
        """Let the SuperNode with this key in; nothing changes if it was registered before.

        Args:
            public: File of the node's public key, nodeI.pub.

        Raises:
            BadInput: The SuperLink refused, and says why.
        """
        done = self.flwr("supernode", "register", str(public), NAME)
        output = done.stdout + done.stderr
        if done.returncode and REGISTERED_BEFORE not in output:
            raise BadInput(f"{self.address} did not register {public}: {last_words(output, lines=3)}")

    def submit(self, app: Path, log: Path) -> Process:
        """Start a run with `flwr run --stream`; what the ServerApp says comes to `log`."""
        return Process("flwr run", self._words("run", str(app), NAME, "--stream"), log, self._environment())

    def stream(self, app: Path) -> None:
        """Start a run and show what the ServerApp says, on this terminal, until it ends.

        Raises:
            BadInput: `flwr` refused; what it said stands above.
        """
        words = self._words("run", str(app), NAME, "--stream")
        code = subprocess.run(words, env=self._environment(), check=False).returncode
        if code:
            raise BadInput(f"flwr run ended with code {code}: see above")

    def follow(self, run: str, log: Path) -> Process:
        """Follow a run that was started before, from its first line on."""
        return Process("flwr log", self._words("log", run, NAME), log, self._environment())

    def status(self, run: str) -> str | None:
        """Return what the SuperLink says of a run, e.g. 'running' or 'finished:failed'; None if it is not there."""
        done = self.flwr("list", NAME, "--run-id", run, "--format", "json")
        try:
            return json.loads(done.stdout)["runs"][0]["status"]
        except (ValueError, LookupError):
            return None

    def flwr(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `flwr` with these words and return what it said."""
        return subprocess.run(self._words(*words), env=self._environment(), capture_output=True, text=True, check=False)

    def _words(self, *words: str) -> list[str]:
        return [*self.host.enter, str(Path(sys.executable).parent / "flwr"), *words]

    def _environment(self) -> dict[str, str]:
        entry = {"address": self.address, "root-certificates": str(self.authority.resolve())}
        lines = "\n".join(f"{key} = {_toml(value)}" for key, value in entry.items())
        # Whole at any moment: several programs may start at once.
        write_atomically(self.home / "config.toml", f"[superlink.{NAME}]\n{lines}\n".encode())
        return environment(self.home)


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a Flower program: its own home, this installation's programs, nothing online."""
    # Flower starts its own programs by name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, **OFFLINE, "FLWR_HOME": str(home), "PATH": path, **(more or {})}


def bundle(folder: Path, config: Mapping[str, Any]) -> Path:
    """Make the app that `flwr run` sends to every node: the three packages as they are installed here.

    Args:
        folder: Folder of the app; must not be there yet.
        config: Description of a method by `experiments.runner.compare.describe`.
    """
    for package in (fedlab, strategies, clients):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__", "conf"))
    text = f"""[project]
name = "fedlab-analytic"
version = "0.0.0"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "fedlab"
[tool.flwr.app.components]
serverapp = "strategies.app:app"
clientapp = "clients.app:app"
[tool.flwr.app.config]
config = {_toml(json.dumps(config))}
"""
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def _toml(text: str) -> str:
    # A JSON string is a TOML string, but for surrogate pairs.
    return json.dumps(text, ensure_ascii=False)
