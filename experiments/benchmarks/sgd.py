"""A round of FedAvg against a bare PyTorch loop over the same clients: same samples, same batches, same model.

    python -m experiments.benchmarks.sgd [--workloads dense cnn] [--repeats 5]

The loop is what every loop-based simulator can reach at best: one module, one process, all cores, no messages;
load the model, step through the batches with torch.optim.SGD, add the result. On our side the engine counts: the
messages out and back and Flower's aggregation. Everything is timed in turn, in one run.
"""

from __future__ import annotations

import json
import logging
import math
import random
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from hydra.utils import instantiate
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from clients.sgd import SGD, Answer
from experiments.benchmarks.layout import columns, options, timed
from experiments.config.compose import compose
from experiments.runner.compare import CLIENT_APP, describe
from fedlab import world
from fedlab.engine.aggregation.rounds import run_rounds
from fedlab.engine.messages.broadcast import nodes_of
from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.simulation.cluster import available_cpus
from fedlab.engine.simulation.host import partition_of
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.engine.simulation.ray_grid import RayGrid
from fedlab.gradient.networks import Model

FEDERATION, SAMPLES, CLASSES = 1000, 50, 10
"""Number of clients, samples of each, and classes."""


@dataclass(frozen=True)
class Workload:
    """Who trains what.

    Attributes:
        title: What the table is called.
        cohort: Number of clients that train in the round.
        shape: Of one sample; three dimensions are an image.
        settings: As `fedlab run` takes them.
        module: The same network in PyTorch's own words.
        pooled: Height, width and channels of what its convolutions leave.
    """

    title: str
    cohort: int
    shape: tuple[int, ...]
    settings: tuple[str, ...]
    module: Callable[[], nn.Sequential]
    pooled: tuple[int, int, int] = (0, 0, 0)


WORKLOADS = {
    "dense": Workload(
        "a 64-64-10 network, every client in the round",
        1000,
        (64,),
        ("network=hidden", "network.width=64"),
        lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES)),
    ),
    "cnn": Workload(
        "two convolutions, 1.6M weights, images of 32x32x3",
        50,
        (32, 32, 3),
        ("network=cnn",),
        lambda: nn.Sequential(
            nn.Conv2d(3, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(14 * 14 * 64, 128),
            nn.ReLU(),
            nn.Linear(128, CLASSES),
        ),
        (14, 14, 64),
    ),
}


def main() -> None:
    """Time the workloads and print a table of each."""
    parser = options(__doc__, repeats=5)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    cores = available_cpus()
    parser.add_argument(
        "--loops", nargs="+", type=int, default=[cores, 1], help="threads of the loop; the fastest counts"
    )
    args = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    console = Console(width=110)
    for name in args.workloads:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            console.print(measured(WORKLOADS[name], Path(folder), stack, args.repeats, args.loops))


def measured(work: Workload, folder: Path, stack: ExitStack, repeats: int, loops: list[int]) -> Table:
    """Run every way of making the round `repeats` times, in turn, and return the table."""
    same = "methods=[fedavg] features=identity partition=iid gradient.learning_rate=0.1 source=numpy"
    samples = f"source.path={drawn(work, folder / 'samples.npz')}"
    sizes = (f"clients={FEDERATION}", f"cohort.fraction={work.cohort / FEDERATION}")
    cfg = compose([*same.split(), samples, *sizes, *work.settings])
    config = describe(cfg, "fedavg")
    source, partition, backbone = (instantiate(config[part]) for part in ("source", "partition", "backbone"))
    everyone = world.build(source, partition, backbone, FEDERATION, cfg.seed)
    learner: SGD = instantiate(config["client"], num_classes=CLASSES)
    start = learner.initial(everyone.train.shape[1], cfg.seed)
    run_config = {"config": json.dumps(config)}
    cores = available_cpus()
    ray = stack.enter_context(RayGrid(CLIENT_APP, FEDERATION, run_config, num_workers=cores))
    local = stack.enter_context(LocalGrid(CLIENT_APP, FEDERATION, run_config))
    partitions = cohort(instantiate(config["strategy"]), local, cfg.seed)
    clients = [(*everyone.client(k), seed_of(cfg.seed, k)) for k in partitions]
    loop = Loop(work, learner, clients)

    def federated(grid: Grid) -> Model:
        random.seed(cfg.seed)  # the same cohort every time
        history = run_rounds(instantiate(config["strategy"]), MeteredGrid(grid), to_record(start), 1)
        return {name: torch.tensor(array) for name, array in from_record(history.arrays).items()}

    def together() -> Model:
        xs, labels, seeds = zip(*clients, strict=True)
        return average(learner.train_many(start, {}, xs, labels, seeds) or one_by_one())

    def one_by_one() -> list[Answer]:
        return [learner.train(start, {}, *client) for client in clients]

    ways: dict[str, tuple[int, Callable[[], Model]]] = {
        f"FedAvg, RayGrid, {cores} workers": (1, lambda: federated(ray)),
        "FedAvg, LocalGrid": (1, lambda: federated(local)),
        "clients only, one by one, threads: 1": (1, lambda: average(one_by_one())),
        "clients only, train_many, threads: 1": (1, together),
    }
    bare = {f"bare loop, threads: {threads}": (threads, lambda: loop.round(start)) for threads in loops}
    seconds, models = timed_in_turn(bare | ways, repeats)
    best = min(bare, key=lambda name: median(seconds[name]))
    table = columns(
        f"{work.title}: {work.cohort} of {FEDERATION} clients, {SAMPLES} samples each",
        "< | seconds | us per client | faster than the best loop | largest difference of a weight",
    )
    for name in seconds:
        gap = max(float((models[name][key] - array).abs().max()) for key, array in models[best].items())
        spent = median(seconds[name])
        cells = (f"{spent:.3f}", f"{spent / work.cohort * 1e6:.0f}", f"{median(seconds[best]) / spent:.2f}")
        table.add_row(name, *cells, f"{gap:.1e}")
    return table


def cohort(strategy: Strategy, grid: Grid, seed: int) -> list[int]:
    """Return the partitions that the strategy asks in its first round."""
    random.seed(seed)
    messages = strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid)
    return [partition_of(node) for node in nodes_of(list(messages)).tolist()]


def seed_of(seed: int, partition: int) -> int:
    """Return the seed that a client derives in the first round, as `clients.app` does."""
    return int(np.random.SeedSequence([seed, 1, partition]).generate_state(1)[0])


def average(answers: list[Answer]) -> Model:
    """Return the mean of the clients' models by their samples."""
    counts = [metrics["num-examples"] for _, metrics in answers]
    total = {name: torch.zeros(array.shape) for name, array in answers[0][0].items()}
    for (model, _), count in zip(answers, counts, strict=True):
        for name, array in model.items():
            total[name].add_(torch.from_numpy(array), alpha=count / sum(counts))
    return total


def timed_in_turn(
    ways: dict[str, tuple[int, Callable[[], Model]]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, Model]]:
    """Return every way's seconds, the first time left out, and its model."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    models: dict[str, Model] = {}
    for turn in range(repeats + 1):
        for name, (threads, way) in ways.items():
            torch.set_num_threads(threads)
            models[name], spent = timed(way)
            if turn:
                seconds[name].append(spent)
    return seconds, models


def drawn(work: Workload, path: Path) -> Path:
    """Write seeded samples, every client's and a few to test on, and return the path."""
    rng = np.random.default_rng(0)

    def some(n: int) -> np.ndarray:
        if len(work.shape) == 3:
            return rng.integers(256, size=(n, *work.shape), dtype=np.uint8)
        return rng.standard_normal((n, *work.shape), dtype=np.float32)

    n, m = FEDERATION * SAMPLES, 100
    y, y_test = rng.integers(CLASSES, size=n), np.arange(m) % CLASSES
    np.savez(path, x=some(n), y=y, x_test=some(m), y_test=y_test)
    return path


class Loop:
    """The round as a loop over clients whose samples are loaded already.

    Args:
        work: Workload whose network is trained.
        rule: Learner whose settings the loop follows.
        clients: Features (n, d), classes (n,) and seed of each.
    """

    def __init__(self, work: Workload, rule: SGD, clients: list[tuple[Tensor, Tensor, int]]):
        self.module, self.rule, self.pooled = work.module(), rule, work.pooled
        # PyTorch's modules read images with the channels first.
        inputs = [x.unflatten(1, work.shape).movedim(-1, 1).contiguous() for x, _, _ in clients]
        self.clients = [(x, labels, seed) for x, (_, labels, seed) in zip(inputs, clients, strict=True)]

    def round(self, start: dict[str, np.ndarray]) -> Model:
        """Return the average of the clients' models, under the names and in the layout of `start`."""
        keys = list(self.module.state_dict())
        given = {
            key: self._relaid(torch.tensor(start[name]), self.pooled, -1, 1)
            for key, name in zip(keys, start, strict=True)
        }
        total = {key: torch.zeros_like(array) for key, array in given.items()}
        everyone = sum(len(labels) for _, labels, _ in self.clients)
        for x, labels, seed in self.clients:
            self.module.load_state_dict(given)
            optimizer = torch.optim.SGD(self.module.parameters(), lr=self.rule.learning_rate)
            generator = torch.Generator().manual_seed(seed)
            for rows in torch.randperm(len(x), generator=generator).split(self.rule.batch_size):
                optimizer.zero_grad()
                nn.functional.cross_entropy(self.module(x[rows]), labels[rows]).backward()
                optimizer.step()
            for key, array in self.module.state_dict().items():
                total[key].add_(array, alpha=len(labels) / everyone)
        channels_first = (self.pooled[2], *self.pooled[:2])
        return {name: self._relaid(total[key], channels_first, 1, -1) for key, name in zip(keys, start, strict=True)}

    def _relaid(self, weight: Tensor, shape: tuple[int, ...], channels: int, to: int) -> Tensor:
        # The layer above the convolutions numbers its inputs by row, column, channel; a module by channel first.
        above = weight.ndim == 2 and weight.shape[1] == math.prod(self.pooled)
        return weight.unflatten(1, shape).movedim(channels, to).flatten(1) if above else weight


if __name__ == "__main__":
    main()
