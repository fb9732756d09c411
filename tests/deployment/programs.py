"""What the stories start: federations whose clients can be held, by compose's own commands too, and `deploy local`."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from experiments.deploy.connection import Host
from experiments.deploy.federation import Federation
from experiments.deploy.process import Process
from experiments.deploy.run import Run
from tests.deployment.gated import GATE

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker" / "compose.yaml"
RETRY_FOR = 240.0
SOON = 240.0
aborts: list[Callable[[], None]] = []
"""What ends a story early."""


class Gates:
    """A gate before the training of each client."""

    def __init__(self, folder: Path, clients: int):
        self.files = [folder / f"gate{client}" for client in range(clients)]

    def env(self, client: int) -> dict[str, str]:
        return {GATE: str(self.files[client])}

    def shut(self) -> None:
        for file in self.files:
            file.touch()

    def open(self, client: int) -> None:
        self.files[client].unlink()

    def await_clients(self, run: Run) -> None:
        reached = [Path(f"{file}.reached") for file in self.files]
        until(lambda: all(file.exists() for file in reached), run.check)


class Held(Federation):
    """A federation whose clients wait at their gates."""

    def __init__(self, folder: Path, nodes: int, **words: Any):
        super().__init__(folder, nodes, env={"PYTHONPATH": str(ROOT)}, **words)
        self.gates = Gates(folder, nodes)
        self.gates.shut()
        self.out = folder / "out"

    def __enter__(self) -> "Held":
        aborts.append(self.abort)
        return self

    def start_node(self, number: int, keys: Any = None, env: Mapping[str, str] | None = None) -> Process:
        return super().start_node(number, keys, {**self.gates.env(number), **(env or {})})

    def result(self, run: Run, lines: list[str]) -> dict[str, Any]:
        run.wait(RETRY_FOR, self.check, lines.append)
        return json.loads((run.out / "results.json").read_text())


class Composed(Held):
    """A federation that is started with the very commands of docker/compose.yaml."""

    def admit(self, number: int) -> int:
        (self.folder / "flwr").mkdir(exist_ok=True)
        words = [word for word in self.composed("register") if "/node" not in word]
        public = self.keys.node(number).with_suffix(".pub")
        done = subprocess.run([*words, str(public)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        self.start_node(number)
        return number

    def _start(self, name: str, command: list[str], host: Host, env: Mapping[str, str] | None = None) -> Process:
        composed = self.composed(name)
        for option in ("--host", "--port"):
            if option in composed:
                composed[composed.index(option) + 1] = command[command.index(option) + 1]
        assert composed == command, "compose.yaml and experiments/deploy/federation.py say the same"
        return super()._start(name, composed, host, env)

    def healthy(self) -> list[str]:
        """Return the services whose own health check is content."""
        found = []
        for name, process in self.processes.items():
            check = yaml.safe_load(COMPOSE.read_text())["services"][name]["healthcheck"]
            if "test" in check:
                words = self.here(shlex.join(check["test"][1:]))
                port = process.command[process.command.index("--port") + 1]
                words = [word.replace("127.0.0.1:9094", f"127.0.0.1:{port}") for word in words]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stderr
                found.append(name)
        return found

    def composed(self, service: str) -> list[str]:
        """Return a service's command."""
        return self.here(yaml.safe_load(COMPOSE.read_text())["services"][service]["command"])

    def here(self, command: str) -> list[str]:
        """Return a container's command with the paths, addresses and size of this federation."""
        for there, here in {
            "/run/secrets": str(self.keys.folder),
            "/state/": f"{self.folder}/",
            "superlink:8000": self.address,
            "localhost:8000": self.address,
            "num-partitions=4": f"num-partitions={self.nodes}",
        }.items():
            command = command.replace(there, here)
        return shlex.split(command)


class Command:
    """`fedlab deploy local` as a process, and what it leaves behind."""

    def __init__(self, folder: Path, *words: str):
        self.folder, self.log = folder, folder / "said.log"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "experiments.main", "deploy", "local", *words],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(self.temporary)},
            )
        aborts.append(lambda: self.signal(signal.SIGTERM))

    def said(self) -> list[str]:
        return self.log.read_text().splitlines()

    def signal(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def wait(self, retry_for: float) -> int:
        """Return its exit code; past its patience it is asked to stop what it started, and itself."""
        try:
            return self._child.wait(retry_for)
        except subprocess.TimeoutExpired:
            self._child.terminate()
            return self._child.wait()

    def left(self) -> str:
        """Files in its temporary folder and processes that live there, in words."""
        mark = f"FLWR_HOME={self.temporary}".encode()
        alive = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (process / "environ").read_bytes():
                    alive.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return " ".join([*alive, *(path.name for path in self.temporary.iterdir())])


def until(true: Callable[[], bool], check: Callable[[], None], retry_for: float = SOON) -> None:
    deadline = time.monotonic() + retry_for
    while not true():
        check()
        assert time.monotonic() < deadline, f"nothing within {retry_for:g} s"
        time.sleep(0.05)
