"""What only Ray can do wrong: workers that die or find no room, addresses that do not answer, Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import ray
from flwr.app import Message, RecordDict

from fedlab.engine.simulation import cluster
from fedlab.engine.simulation.cluster import available_cpus
from fedlab.engine.simulation.host import node_of
from fedlab.engine.simulation.ray_grid import RayGrid
from fedlab.errors import BadInput

#: seconds: less than Ray's own patience of minutes, and more than a busy machine takes to be told
RETRY_FOR = 60


def pids(grid: RayGrid) -> dict[int, int]:
    """Partition to the process that holds it."""
    nodes = list(grid.get_node_ids())
    replies = grid.send_and_receive([Message(RecordDict(), node, "query.who") for node in nodes])
    return {reply.content["metrics"]["partition"]: reply.content["metrics"]["pid"] for reply in replies}


@pytest.mark.slow
def test_nodes_are_pinned_to_workers_and_a_second_grid_does_not_wait_for_ever(ray_runtime, app, monkeypatch):
    with RayGrid(app, 5, num_workers=2, cpus_per_worker=1.5, chunk=1, sizes=[9, 1, 1, 1, 1]) as grid:
        placed = pids(grid)
        assert len(set(placed.values())) == 2 and os.getpid() not in placed.values()
        assert [p for p in placed if placed[p] == placed[0]] == [0]  # as much work as the other four together
        assert pids(grid) == placed
        monkeypatch.setattr(cluster, "START_TIMEOUT", 1.0)
        with pytest.raises(BadInput, match="1 of 1 Ray workers did not start within 1 s: other actors hold"):
            RayGrid(app, 2, num_workers=1)


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(ray_runtime, app, ask):
    def counted(grid):
        return [reply.content["metrics"]["times"] for reply in grid.stream(ask(grid, "count"))]

    with RayGrid(app, 6, num_workers=2, cpus_per_worker=0.5, chunk=1) as grid:
        assert counted(grid) == [1] * 6
        placed = pids(grid)
        replies = grid.stream(ask(grid, "count"))
        seen = [next(replies)]
        os.kill(placed[0], signal.SIGKILL)  # in the round
        seen += list(replies)
        assert [reply.content["metrics"]["times"] for reply in seen] == [2] * 6  # no count lost, none doubled
        os.kill(placed[1] if placed[1] != placed[0] else placed[2], signal.SIGKILL)  # between rounds
        assert counted(grid) == [3] * 6
        assert grid.restarts >= 1 and set(pids(grid).values()).isdisjoint({placed[0]})
        states = grid.node_states()
        grid.restart({})
        assert grid.node_states() == {} and counted(grid) == [1] * 6
        grid.set_node_states(states)
        assert counted(grid) == [4] * 6


@pytest.mark.slow
def test_clients_that_kill_every_worker_are_one_clear_message(ray_runtime, app, ask):
    with RayGrid(app, 3, num_workers=1, cpus_per_worker=0.5, chunk=1) as grid:
        with pytest.raises(BadInput, match=r"^a Ray worker died 3 times over the same 1 clients \(.+\): often mem"):
            list(grid.stream(ask(grid, "suicide", partition=1)))
        # Once more where the first of them dies before the answer to the call before it is on its way.
        assert grid.restarts in (2, 3)


def test_more_workers_than_cpus_are_refused(ray_runtime, app):
    with pytest.raises(BadInput, match=r"4 workers want 4 CPUs, Ray offers 3: lower engine.num_workers or engine.cpus"):
        RayGrid(app, 9, num_workers=4)
    with pytest.raises(BadInput, match=r"2 workers want 1 GPUs, Ray offers 0: .*engine.gpus_per_worker"):
        RayGrid(app, 9, num_workers=2, gpus_per_worker=0.5)


def test_a_closed_grid_says_so(ray_runtime, app):
    grid = RayGrid(app, 1, num_workers=4)  # one client needs one worker
    (pid,) = set(pids(grid).values())
    grid.close()
    assert _ends(pid)
    assert ray.is_initialized()  # Ray was there before the grid and stays
    grid.close()  # twice is once
    with pytest.raises(BadInput, match="this grid is closed"):
        grid.send_and_receive([Message(RecordDict(), node_of(0), "query.who")])


@pytest.mark.parametrize(
    "wrong", [{"num_workers": 0}, {"chunk": 0}, {"cpus_per_worker": -1}, {"gpus_per_worker": float("nan")}]
)
def test_nothing_is_started_for_a_wrong_setting(app, wrong):
    with pytest.raises(BadInput, match=r"must be a (whole number >= 1|finite number >= 0)"):
        RayGrid(app, 2, **wrong)


def test_an_app_that_cannot_be_loaded_is_refused_before_ray_starts(no_ray):
    with pytest.raises(BadInput, match=r"client app 'no\.such:app' cannot be loaded"):
        RayGrid("no.such:app", 2)
    assert not ray.is_initialized()


@pytest.mark.parametrize("host", ["127.0.0.1", "ray://127.0.0.1"])
def test_a_dead_address_is_told_at_once(host, app, no_ray):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = f"{host}:{closed.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(BadInput, match=rf"no Ray cluster answers at '{address}' .*ray start --head"):
            RayGrid(app, 2, address=address)
        assert time.monotonic() - started < RETRY_FOR


def test_an_address_where_something_else_listens_is_told_at_once(app, no_ray):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(BadInput, match=r"no Ray cluster answers at .* \(what listens there is not Ray\)"):
            RayGrid(app, 2, address=f"127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - started < RETRY_FOR


def test_another_grpc_server_is_told_from_ray_at_once(app, no_ray):
    with ThreadPoolExecutor() as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        started = time.monotonic()
        with pytest.raises(BadInput, match=r"no Ray cluster answers at .* \(what listens there is not Ray\)"):
            RayGrid(app, 2, address=f"127.0.0.1:{port}")
        assert time.monotonic() - started < RETRY_FOR
        server.stop(None)


def test_auto_means_what_the_environment_says(app, no_ray, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(BadInput, match=r"no Ray cluster answers at '127.0.0.1:1'"):
        RayGrid(app, 2, address="auto")


@pytest.mark.slow
def test_a_cluster_that_answers_is_joined_and_left_running(ray_runtime):
    address = ray.get_runtime_context().gcs_address
    script = f"""
from fedlab.engine.simulation.ray_grid import RayGrid
with RayGrid("clients.app:app", 2, num_workers=1, address={address!r}) as grid:
    print(*grid.get_node_ids())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "2 3\n"), done.stderr
    assert ray.cluster_resources()["CPU"] == 3


def test_an_address_without_a_port_is_told(app, no_ray):
    with pytest.raises(BadInput, match="no Ray cluster answers at 'somewhere'"):
        RayGrid(app, 2, address="somewhere")


@pytest.fixture
def no_ray(monkeypatch):
    """As in a process that has no Ray yet: only there the address matters."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


def test_too_many_workers_are_refused_before_ray_is_started(app, no_ray):
    wanted = available_cpus() + 1
    with pytest.raises(BadInput, match=f"{wanted} workers want {wanted} CPUs, Ray offers {available_cpus()}"):
        RayGrid(app, wanted, num_workers=wanted)


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_a_stream_ends_the_ray_that_the_grid_started(tmp_path):
    script = tmp_path / "interrupted.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, time
            from fedlab.engine.simulation.ray_grid import RayGrid
            from flwr.app import Message, MetricRecord, RecordDict
            from flwr.clientapp import ClientApp

            def app():
                app = ClientApp()

                @app.query()
                def slow(message, context):
                    time.sleep(60 * (context.node_id > 2))
                    return Message(RecordDict({"pid": MetricRecord({"pid": os.getpid()})}), reply_to=message)

                return app

            with RayGrid(app(), 4, num_workers=1, chunk=1) as grid:
                for reply in grid.stream([Message(RecordDict(), n, "query") for n in grid.get_node_ids()]):
                    print(reply.content["pid"]["pid"], flush=True)
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=RETRY_FOR)
        assert said.rstrip().endswith("KeyboardInterrupt")
        assert _ends(worker)
    finally:
        process.kill()
        process.wait()


def _ends(pid: int) -> bool:
    deadline = time.monotonic() + RETRY_FOR
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
