"""A federation of real Flower processes: one SuperLink, its SuperExec, and SuperNodes, on one host or several.

The SuperLink keeps its state in a database and runs its ServerApps in processes of their own, so that a run
goes on, in the middle of its round, when the SuperLink is killed and started again. The commands are those of
docker/compose.yaml, and a test holds the two together.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.deploy.connection import Connection, Host, bundle, environment
from experiments.deploy.keys import Keys, make_keys
from experiments.deploy.probe import wait_until_ready
from experiments.deploy.process import Process, stop
from experiments.deploy.run import Run
from fedlab.errors import BadInput

RETRY_FOR = 60.0
"""Seconds that a process may take to start."""
POLL = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
"""Seconds between two looks for work."""


def superlink(keys: Keys, host: str, port: int, database: Path) -> list[str]:
    """Return the SuperLink's command: TLS, only nodes with a known key, its state on disk."""
    return [
        *("flower-superlink", "--isolation", "process", "--host", host, "--port", str(port)),
        *("--ssl-ca-certfile", str(keys.authority), "--ssl-certfile", str(keys.certificate)),
        *("--ssl-keyfile", str(keys.certificate_key), "--enable-supernode-auth"),
        *("--superexec-auth-secret-file", str(keys.secret), "--database", str(database)),
    ]


def superexec(keys: Keys, address: str) -> list[str]:
    """Return the command of the process that runs the ServerApps of the SuperLink at this address."""
    return [
        *("flower-superexec", "--runtime-api-address", address, "--root-certificates", str(keys.authority)),
        *("--superexec-auth-secret-file", str(keys.secret)),
    ]


def supernode(keys: Keys, address: str, number: int, nodes: int, port: int = 9094) -> list[str]:
    """Return the command of a SuperNode, which holds one partition of the data.

    Args:
        keys: Keys among which its own and the authority's certificate lie.
        address: Address of the SuperLink.
        number: Number of its key and its partition.
        nodes: Number of partitions.
        port: Port of its own, for the processes of its ClientApps; on each host another.
    """
    return [
        *("flower-supernode", "--superlink", address, "--root-certificates", str(keys.authority)),
        *("--auth-supernode-private-key", str(keys.node(number)), "--port", str(port)),
        *("--node-config", f"partition-id={number} num-partitions={nodes}"),
    ]


class Federation:
    """Starts and stops the processes of a federation; what it started ends with the `with` block.

    Args:
        folder: Folder of keys, state and Flower's own files; secrets lie in it, so a temporary one.
        nodes: Number of SuperNodes.
        hosts: Machine of the SuperLink, then that of each SuperNode; None for this machine.
        logs: Folder of what each process says; None for a part of `folder`.
        env: Variables that every process's environment has besides.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int,
        hosts: Iterable[Host] | None = None,
        logs: Path | None = None,
        env: Mapping[str, str] | None = None,
    ):
        self.folder, self.nodes, self.env = folder, nodes, env or {}
        self.hosts = list(hosts) if hosts is not None else [Host()] * (nodes + 1)
        self.logs = logs or folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.address = f"{self.hosts[0].address}:{free_port()}"
        self.keys = make_keys(folder / "keys", [self.hosts[0].address], nodes)
        self.connection = Connection(self.address, self.keys.authority, folder / "flwr", self.hosts[0])
        self.processes: dict[str, Process] = {}
        self._runs: list[Run] = []

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for run in self._runs:
                run.stop_following()
            stop(self.processes.values())
        except KeyboardInterrupt:  # a second Ctrl-C: no more waiting
            self.abort()
            raise

    # -- starting --------------------------------------------------------------------------------------------

    def start(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Start everything, in the order in which one needs the other.

        Args:
            say: Function told how far it is.

        Raises:
            BadInput: A process ended, or was not ready in time; its last words are in the message.
        """
        self.start_superlink()
        say(f"SuperLink ready on {self.address}: TLS, node authentication, state on disk")
        self.start_superexec()
        # A few at a time: each is a program of its own that has to load.
        with ThreadPoolExecutor(max_workers=4) as pool:
            for number in pool.map(self.admit, range(self.nodes)):
                say(f"SuperNode {number} registered and started")

    def admit(self, number: int) -> int:
        """Register a SuperNode's key and start it; return its number."""
        self.connection.register(self.keys.node(number).with_suffix(".pub"))
        self.start_node(number)
        return number

    def start_superlink(self) -> None:
        """Start the SuperLink, on the state that a former one left, and wait until it answers."""
        host, port = self.hosts[0].address, int(self.address.rpartition(":")[2])
        self._start("superlink", superlink(self.keys, host, port, self.folder / "state.db"), self.hosts[0])
        wait_until_ready(self.connection.probe, RETRY_FOR, self.check)

    def start_superexec(self) -> None:
        """Start the process that runs the ServerApps."""
        self._start("superexec", superexec(self.keys, self.address), self.hosts[0])

    def start_node(self, number: int, keys: Keys | None = None, env: Mapping[str, str] | None = None) -> Process:
        """Start a SuperNode.

        Args:
            number: Number of its partition.
            keys: Keys among which its own and the authority's lie; None for the federation's.
            env: Variables that its environment has besides.

        Raises:
            BadInput: The SuperLink's certificate does not match, seen from the node's host.
        """
        host, keys = self.hosts[1 + number], keys or self.keys
        Connection(self.address, keys.authority, self.folder / "flwr", host).probe()
        command = supernode(keys, self.address, number, self.nodes, free_port())
        return self._start(f"supernode{number}", command, host, env)

    def abort(self) -> None:
        """End everything at once, from whatever thread; whoever waits for it is told by `check`."""
        for process in list(self.processes.values()):
            process.kill()

    def kill(self, name: str) -> None:
        """End a process and its children at once, as a power failure would; `check` does not miss it."""
        self.processes.pop(name).kill()

    def _start(self, name: str, command: list[str], host: Host, env: Mapping[str, str] | None = None) -> Process:
        home = self.folder / "homes" / name  # every process its own, as on hosts of their own
        # Addresses of this machine or of its own networks: no proxy has a part in it.
        own = environment(home, {"NO_PROXY": "*", "no_proxy": "*", **POLL, **self.env, **(env or {})})
        process = Process(name, [*host.enter, *command], self.logs / f"{name}.log", own, self.folder)
        self.processes[name] = process
        return process

    # -- running ---------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise if a process has ended by itself.

        Raises:
            BadInput: Names it, with its last words.
        """
        for process in list(self.processes.values()):  # another thread may start or kill one meanwhile
            if process.code is None:
                continue
            if refused(process):
                key = process.command[process.command.index("--auth-supernode-private-key") + 1]
                raise BadInput(
                    f"{process.name} was refused by the SuperLink at {self.address}: its key {key} is not "
                    f"registered, or another node uses it; fedlab deploy register {key}.pub lets it in"
                )
            raise BadInput(
                f"{process.name} ended with code {process.code}: {process.last_words()} (all of it: {process.log})"
            )

    def run(self, config: Mapping[str, object], out: Path, name: str = "run") -> Run:
        """Send an app to the nodes and start it.

        Args:
            config: Description of a method by `experiments.runner.compare.describe`.
            out: Folder of the ServerApp's results; must not hold any yet.
            name: Name of its log.
        """
        if (out / "results.json").exists():
            raise BadInput(f"{out} holds the results of another run: name a new folder")
        app = bundle(self.folder / "apps" / name, {**config, "out": str(out.resolve())})
        self._runs.append(Run(self.connection, app, out, self.logs / f"{name}.log"))
        return self._runs[-1]


def refused(process: Process) -> bool:
    """Return whether a SuperNode ended because the SuperLink does not know its key."""
    return process.code is not None and "[code: 2004]" in process.output()


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]
