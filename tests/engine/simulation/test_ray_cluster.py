"""Several machines, as far as one can play them: two Ray nodes with their own addresses and folders."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedlab.engine.messages.broadcast import Broadcast
from fedlab.engine.simulation.ray_grid import RayGrid

HEAD, WORKER = "127.0.0.2", "127.0.0.3"
QUICK = {  # a dead node is noticed in a second, not in fourteen
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_timeout_ms": "1000",
}


def make_app() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        import ray

        seen = context.state["seen"]["times"] if "seen" in context.state else 0
        context.state["seen"] = MetricRecord({"times": seen + 1})
        time.sleep(message.content["config"]["seconds"])
        where = ray.util.get_node_ip_address()
        told = {"partition": int(context.node_config["partition-id"]), "times": seen + 1, "worker": where == WORKER}
        return Message(RecordDict({"told": MetricRecord({k: int(v) for k, v in told.items()})}), reply_to=message)

    return app


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


@contextmanager
def node(address: str, folder: Path, ports: int, *arguments: str) -> Iterator[subprocess.Popen]:
    """A Ray node in the foreground, ended with everything it started."""
    ray = Path(sys.executable).with_name("ray")
    options = [f"--node-ip-address={address}", "--num-cpus=2", f"--temp-dir={folder}", "--block"]
    options += [f"--min-worker-port={ports}", f"--max-worker-port={ports + 99}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [ray, "start", *arguments, *options], stdout=log, stderr=log, env={**os.environ, **QUICK}
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """End a node and all its processes, by their pids."""
    if process.poll() is None:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            with_pid = member.is_running()
            if with_pid:
                member.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, timeout=60)
    process.wait(60)


@pytest.fixture
def cluster() -> Iterator[subprocess.Popen]:
    """Two nodes and a connection to them; yields the process of the second."""
    import ray

    if sys.platform != "linux":
        pytest.skip("only Linux answers on every address of 127.0.0.0/8")
    if ray.is_initialized():
        ray.shutdown()
    # Short paths: Ray's sockets live in these folders, and their names may not pass 107 characters.
    with (
        tempfile.TemporaryDirectory(prefix="h", dir="/tmp") as one,
        tempfile.TemporaryDirectory(prefix="w", dir="/tmp") as two,
    ):
        port = free_port(HEAD)
        address = f"{HEAD}:{port}"
        with node(HEAD, Path(one), 27000, "--head", f"--port={port}", "--include-dashboard=false"):
            wait_for(lambda: _answers(HEAD, port), one)
            with node(WORKER, Path(two), 27100, f"--address={address}") as second:
                ray.init(address=address, _node_ip_address=HEAD, log_to_driver=False, logging_level="error")
                try:
                    wait_for(lambda: ray.cluster_resources().get("CPU") == 4, two)
                    yield second
                finally:
                    ray.shutdown()


def _answers(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def wait_for(ready, folder: str) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline, Path(folder, "log").read_text()
        time.sleep(0.2)


def test_a_machine_that_dies_in_the_round_does_not_change_the_result(cluster):
    def ask(seconds: float) -> Broadcast:
        content = RecordDict({"config": ConfigRecord({"seconds": seconds})})
        return Broadcast(content, list(grid.get_node_ids()), "train")

    with RayGrid(make_app(), 8, num_workers=2, chunk=1) as grid:
        told = [reply.content["told"] for reply in grid.stream(ask(0.0))]
        assert [t["partition"] for t in told] == list(range(8)) and {t["times"] for t in told} == {1}
        assert {t["worker"] for t in told} == {0, 1}  # the nodes of the federation are spread over both machines
        replies = grid.stream(ask(0.5))
        told = [next(replies).content["told"]]
        end(cluster)
        told += [reply.content["told"] for reply in replies]
        assert [t["partition"] for t in told] == list(range(8))
        assert {t["times"] for t in told} == {2}  # nothing that a client remembered is lost, nothing is done twice
        assert grid.restarts >= 1 and told[-1]["worker"] == 0
