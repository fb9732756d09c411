"""The engine against Flower's own: the same apps, the same messages, in one run.

    python -m experiments.benchmarks.engine [--clients 1000] [--repeats 3] [--largest 1000000]

Every measurement is a process of its own, so that its memory is its own. A round sends one message to every
client and adds up the replies; the first round is not counted, for both engines start things in it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from rich.console import Console

from experiments.benchmarks.layout import options, timed
from experiments.benchmarks.tables import ENGINES, WORKLOADS, afl_table, draw, ratios, table

ROUNDS, ROUNDS_OF_MANY, MANY = 3, 2, 100_000


def main() -> None:
    """Measure everything, print the tables, draw the figure."""
    parser = options(__doc__, clients=1000, repeats=3)
    parser.add_argument("--largest", type=int, default=1_000_000, help="clients of the largest round of ours")
    parser.add_argument("--figure", type=Path, default=Path("experiments/figures/engine.png"))
    parser.add_argument("--one", nargs=3, metavar=("ENGINE", "WORKLOAD", "CLIENTS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        engine, workload, clients = args.one
        print(json.dumps(afl(engine, int(clients)) if workload == "afl" else one(engine, workload, int(clients))))
        return
    console = Console()
    runs = [measure(console, *job) for job in against_flower(args.clients, args.repeats)]
    runs += [measure(console, *job) for job in alone(args.clients, args.largest)]
    console.print(table(runs), ratios(runs, args.clients))
    afls = [measure(console, engine, "afl", n) for engine, n in (("local", 1000), ("ray", 1000), ("ray", args.largest))]
    afls.append(measure(console, "ray", "afl", args.largest // 100))
    console.print(afl_table(afls))
    draw(runs, args.figure)


def against_flower(clients: int, repeats: int) -> list[tuple[str, str, int]]:
    """Return what both engines run, one after the other, so that a noisy minute strikes both."""
    jobs = []
    for number, workload in product((clients // 10, clients), WORKLOADS):
        engines = [e for e in ENGINES if workload != "no-op" or "summed" not in e]
        jobs += [(engine, workload, number) for _ in range(repeats) for engine in engines]
    return jobs


def alone(clients: int, largest: int) -> list[tuple[str, str, int]]:
    """Return the larger rounds, which only this engine runs: as sums on Ray, and as no-ops in one process."""
    sizes = [n for n in (10 * clients, 100 * clients, 1000 * clients) if n <= largest]
    jobs = [("local", "no-op", n) for n in sizes] + [("ray", "no-op", n) for n in sizes if n <= MANY]
    sums = product(sizes, WORKLOADS.items())
    return jobs + [("ray summed", workload, n) for n, (workload, side) in sums if side and n * side**2 <= 3e9]


def measure(console: Console, engine: str, workload: str, clients: int) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, "-m", "experiments.benchmarks.engine", "--one", engine, workload, str(clients)]
    with tempfile.TemporaryFile("w+") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, check=False)
        log.seek(0)
        if done.returncode:
            raise RuntimeError(f"{engine}, {workload}, {clients} clients failed:\n{log.read()[-3000:]}")
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    console.print(f"{engine}, {workload}, {clients} clients: {measured['seconds']:.2f} s", highlight=False)
    return measured | {"engine": engine, "workload": workload, "clients": clients}


# -- one round, on any Grid ----------------------------------------------------------------------------------


def client_app(side: int) -> Any:
    """Return a ClientApp that answers with a side x side array, or with nothing."""
    from flwr.app import Context, Message, RecordDict
    from flwr.clientapp import ClientApp

    from fedlab.engine.messages.records import to_record

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        content = RecordDict()
        if side:
            partition = int(context.node_config["partition-id"])
            content["arrays"] = to_record({"a": np.full((side, side), float(partition))})
        return Message(content, reply_to=message)

    return app


def play(grid: Any, clients: int, side: int, summed: bool) -> list[float]:
    """Play the rounds and return the seconds of each; the sum is checked."""
    from flwr.app import ArrayRecord, ConfigRecord, RecordDict

    from fedlab.engine.messages.broadcast import Broadcast
    from fedlab.engine.messages.partial_sums import ArraySum, stands_for
    from fedlab.engine.messages.records import records_of, view
    from fedlab.engine.simulation.simulated import SimulatedGrid

    while len(nodes := list(grid.get_node_ids())) < clients:  # Flower's nodes register by and by
        time.sleep(0.05)
    seconds = []
    for server_round in range(ROUNDS if clients < MANY else ROUNDS_OF_MANY):
        started = time.perf_counter()
        messages = Broadcast(RecordDict({"config": ConfigRecord({"server-round": server_round})}), nodes, "train")
        replies: Iterable[Any]
        if isinstance(grid, SimulatedGrid):
            replies = grid.stream(messages, partial_sum=ArraySum if summed else None)
        else:
            replies = grid.send_and_receive(list(messages))
        total, answered = np.zeros((side, side)), 0
        for reply in replies:
            answered += stands_for(reply)[0]
            if side:
                total += view(records_of(reply.content, ArrayRecord)["arrays"]["a"])
        seconds.append(time.perf_counter() - started)
        assert answered == clients, f"{answered} of {clients} clients answered"
        assert (total == clients * (clients - 1) / 2).all()
    return seconds


def one(engine: str, workload: str, clients: int) -> dict[str, Any]:
    """Measure one engine on one workload: seconds of a warm round, and peak memory."""
    side, peaks = WORKLOADS[workload], {}
    name, _, summed = engine.partition(" ")
    with memory(peaks):
        if name == "flower":
            seconds = on_flower(clients, side)
        else:
            with grid_of(name, client_app(side), clients) as grid:
                seconds = play(grid, clients, side, bool(summed))
    return peaks | {"seconds": median(seconds[1:]), "first": seconds[0]}


def grid_of(engine: str, app: Any, clients: int, run_config: dict[str, Any] | None = None) -> Any:
    """Return our engine of this name; Ray is loaded only where it counts."""
    if engine == "local":
        from fedlab.engine.simulation.local_grid import LocalGrid

        return LocalGrid(app, clients, run_config)
    from fedlab.engine.simulation.ray_grid import RayGrid

    return RayGrid(app, clients, run_config, num_workers=2)


def on_flower(clients: int, side: int) -> list[float]:
    """Play the rounds under Flower's own simulation engine."""
    import logging
    import warnings

    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    seconds: list[float] = []
    app = ServerApp()

    @app.main()
    def server(grid: Grid, context: Context) -> None:
        seconds.extend(play(grid, clients, side, summed=False))

    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0}, "init_args": {"include_dashboard": False}}
    run_simulation(app, client_app(side), clients, backend_config=backend)  # pyright: ignore[reportArgumentType]
    if len(seconds) != ROUNDS:
        raise RuntimeError("Flower's engine did not play all rounds")
    return seconds


@contextmanager
def memory(peaks: dict[str, Any]) -> Any:
    """Record the driver's peak memory, and the peak of the driver and its workers together (shared pages once)."""
    done, peak = threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.2):
            total = 0
            for process in [own, *own.children(recursive=True)]:
                try:
                    total += process.memory_full_info().uss
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], total)

    own = psutil.Process()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        peaks["driver"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        peaks["all"] = peak[0]


# -- AFL, whole ------------------------------------------------------------------------------------------------


def afl(engine: str, clients: int) -> dict[str, Any]:
    """AFL from the first message to the head, against one centralised Gram and solve of the same features."""
    from flwr.app import ArrayRecord
    from hydra.utils import instantiate

    from fedlab import world
    from fedlab.engine.aggregation.rounds import run_rounds
    from fedlab.engine.simulation.meter import MeteredGrid
    from strategies.afl import AFL

    samples, d, c = (50_000, 512, 100) if clients == 1000 else (2_000_000, 64, 10)
    target = "experiments.benchmarks.synthetic.Synthetic"
    config = {
        "source": {"_target_": target, "samples": samples, "features": d, "classes": c},
        "partition": {"_target_": "fedlab.data.partition.Iid"},
        "backbone": {"_target_": "fedlab.features.backbones.Identity"},
        "client": {"_target_": "clients.afl.AFL", "limit": 4.0},
        "clients": clients,
        "seed": 0,
        "device": "cpu",
    }
    run_config = {"config": json.dumps(config)}
    source, partition, backbone = (instantiate(config[part]) for part in ("source", "partition", "backbone"))
    everyone = world.build(source, partition, backbone, clients, 0)
    learner = instantiate(config["client"], num_classes=c)
    peaks: dict[str, Any] = {}
    with memory(peaks), grid_of(engine, "clients.app:app", clients, run_config) as grid:
        ours, theirs = [], []
        for repeat in range(4 if clients == 1000 else 1):
            history, seconds = timed(run_rounds, AFL(), MeteredGrid(grid), ArrayRecord(), 1)
            ours.append(seconds)
            head, seconds = timed(lambda: learner.fit(learner.observe(everyone.train, everyone.train_labels), 1.0))
            theirs.append(seconds)
            assert np.array_equal(history.arrays["weight"].numpy(), head.numpy()), "not the centralised head"
            if repeat == 0 and clients == 1000:
                ours, theirs = [], []  # workers have loaded their data now
    return peaks | {"seconds": median(ours), "centralised": median(theirs)}


if __name__ == "__main__":
    main()
