"""What happens to real federations, each told once: a story returns what was seen, and the tests judge it.

A story mostly waits (Flower gives a silent node up after a minute), so all that are wanted are told at once.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from experiments.deploy.connection import NAME
from experiments.deploy.federation import Federation, free_port, refused
from experiments.deploy.keys import make_keys
from experiments.deploy.process import Process, stop
from fedlab.errors import BadInput
from tests.deployment.gated import config
from tests.deployment.network import Network
from tests.deployment.programs import RETRY_FOR, ROOT, SOON, Command, Composed, Held, until

busy = threading.Semaphore(max(2, os.cpu_count() or 2))
"""Held while a story starts programs: more of them at once than there are cores help nobody."""


@dataclass
class Told:
    """What a story has seen."""

    result: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    online: int = 0


def a_node_is_killed(folder: Path) -> Told:
    """One of two clients loses power in its round, and comes back; meanwhile others try to get in."""
    told = Told()
    with Held(folder, 2) as federation:
        with busy:
            federation.start()
            run = federation.run(config(2, tolerate=0.5), folder / "out")
            federation.gates.await_clients(run)
        killed = time.monotonic()
        federation.kill("supernode1")
        federation.gates.open(0)
        told.messages = uninvited(federation, folder)
        told.result = federation.result(run, told.lines)
        told.seconds["until the client was given up"] = time.monotonic() - killed
        federation.gates.open(1)
        bring_back(federation, 1)
        told.online = online(federation)
    return told


def the_superlink_is_restarted(folder: Path) -> Told:
    """The SuperLink loses power while both clients train; the commands are those of docker/compose.yaml."""
    told = Told()
    with busy, Composed(folder, 2) as federation:
        federation.start()
        run = federation.run(config(2), folder / "out")
        federation.gates.await_clients(run)
        told.messages["healthy"] = " ".join(sorted(federation.healthy()))
        federation.kill("superlink")
        killed = time.monotonic()
        told.messages["while it is away"] = refusal(federation.connection.probe)
        federation.start_superlink()
        told.seconds["until it was back"] = time.monotonic() - killed
        for client in range(2):
            federation.gates.open(client)
        told.result = federation.result(run, told.lines)
    return told


def a_cable_is_cut(folder: Path) -> Told:
    """Three hosts; one of the two clients' cables is cut in its round, and mended after."""
    told = Told()
    with Network(3) as network, Held(folder, 2, hosts=network.hosts) as federation:
        with busy:
            federation.start()
            run = federation.run(config(2, tolerate=0.5), folder / "out")
            federation.gates.await_clients(run)
        cut = time.monotonic()
        network.cut(2)
        for client in range(2):
            federation.gates.open(client)
        told.result = federation.result(run, told.lines)
        told.seconds["until the client was given up"] = time.monotonic() - cut
        network.mend(2)
        until(lambda: online(federation) == 2, federation.check)
        told.online = online(federation)
    return told


def a_ray_cluster(folder: Path) -> Told:
    """The head and the worker of docker/compose.ray.yaml, on two addresses of this machine."""
    services = yaml.safe_load((ROOT / "docker" / "compose.ray.yaml").read_text())["services"]
    address = f"127.0.0.2:{free_port()}"

    def words(text: str) -> list[str]:
        text = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", text)
        for there in ("head:6379", "localhost:6379"):
            text = text.replace(there, address)
        return shlex.split(text.replace("--port=6379", f"--port={address.rpartition(':')[2]}"))

    def start(name: str, own: str) -> Process:
        # Two nodes on one machine: each its address, its files and its range of ports.
        first = free_port()
        apart = [f"--node-ip-address={own}", f"--temp-dir={temporary}/{name}"]
        apart += [f"--min-worker-port={first}", f"--max-worker-port={first + 50}"]
        return Process(name, [*words(services[name]["command"]), *apart], folder / f"{name}.log")

    def health(name: str) -> bool:
        check = words(shlex.join(services[name]["healthcheck"]["test"][1:]))
        return subprocess.run(check, capture_output=True, check=False).returncode == 0

    nodes = "import ray, sys; ray.init(sys.argv[1], _node_ip_address='127.0.0.2', log_to_driver=False);"
    nodes += "print(sorted(node['NodeManagerAddress'] for node in ray.nodes() if node['Alive']))"
    told, processes = Told(), []
    # Ray's sockets lie there, and their names must be short.
    with busy, tempfile.TemporaryDirectory(prefix="ray") as temporary:
        try:
            processes.append(start("head", "127.0.0.2"))
            until(lambda: health("head"), lambda: None)
            processes.append(start("worker", "127.0.0.3"))
            until(lambda: "Ray runtime started" in processes[1].output(), lambda: None)
            assert health("worker")
            asked = [sys.executable, "-c", nodes, address]
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            told.messages["nodes"] = done.stdout.strip() or done.stderr
        finally:
            stop(processes)
    told.messages["left"] = str([process.name for process in processes if not process.gone])
    return told


def deployed_here(folder: Path) -> Told:
    """`fedlab deploy local`, as anyone would say it."""
    with busy:
        done = Command(folder, "--out", "out", "features.expansion.width=256")
        code = done.wait(RETRY_FOR)
    told = Told(lines=done.said(), messages={"code": str(code), "left": done.left()})
    if (folder / "out" / "results.json").exists():
        told.result = json.loads((folder / "out" / "results.json").read_text())
    return told


def interrupted(folder: Path) -> Told:
    """`fedlab deploy local`, and Ctrl-C while the run is under way."""
    with busy:
        done = Command(folder, "--out", "out", "clients=1")
        until(lambda: any("submitted" in line for line in done.said()), lambda: None)
        done.signal(signal.SIGINT)
        code = done.wait(SOON)
    return Told(lines=done.said(), messages={"code": str(code), "left": done.left()})


def online(federation: Federation) -> int:
    """Return how many nodes the SuperLink takes for present."""
    done = federation.connection.flwr("supernode", "list", NAME, "--format", "json")
    return sum(node["status"] == "online" for node in json.loads(done.stdout)["nodes"])


def uninvited(federation: Federation, folder: Path) -> dict[str, str]:
    """What those are told who have the wrong key, or meet the wrong certificate."""
    strangers = make_keys(folder / "strangers", ["127.0.0.1"], 2)
    port = federation.address.rpartition(":")[2]
    elsewhere = replace(federation.connection, address=f"localhost:{port}")
    told = {
        "another authority": refusal(lambda: federation.start_node(1, strangers)),
        "another name": refusal(elsewhere.probe),
    }
    shutil.copy(federation.keys.authority, strangers.authority)
    node = federation.start_node(1, strangers)
    until(lambda: node.code is not None, lambda: None)
    told["unknown key"] = refusal(federation.check)
    federation.kill(node.name)
    return told


def bring_back(federation: Federation, number: int) -> None:
    """Start a node again until the SuperLink lets it in, as a supervisor would."""
    deadline = time.monotonic() + RETRY_FOR
    while True:
        node = federation.start_node(number)
        until(lambda node=node: node.code is not None or "SuperNode ID" in node.output(), lambda: None)
        if node.code is None:
            return
        assert refused(node), node.output()
        assert time.monotonic() < deadline, "the node was never let in again"
        time.sleep(3)


def refusal(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except BadInput as error:
        return str(error)
    return "it was let in"
