"""The claim of the house, end to end on real data: whoever holds what, and whoever answers first, one head.

exact     the same SHA-256 for every number of clients, skew, order of answers and engine
float64   statistics to 1e-12 of their largest entry, heads to max(1e-10, 10 eps cond(G + gI)) of theirs
"""

from __future__ import annotations

import hashlib
import random

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from clients import afl as client
from fedlab.analytic import RandomReLU
from fedlab.data.federation import Federation, federate
from fedlab.data.partition import Dirichlet, Iid, Shards
from fedlab.data.sources.catalogue import Digits
from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.stats import GramStats
from strategies import afl as server

RIDGE = 1.0
SOURCE = Digits(seed=0)


class ShuffledGrid(LocalGrid):
    """Clients are met, and answer, in an order of their own."""

    def get_node_ids(self) -> list[int]:
        nodes = list(super().get_node_ids())
        random.Random(5).shuffle(nodes)
        return nodes


def learner(mode: str) -> client.AFL:
    return client.AFL(num_classes=10, expansion=RandomReLU(width=256, seed=0), mode=mode)


def federated(everyone: Federation, mode: str, grid_type: type[LocalGrid]) -> server.AFL:
    """Run AFL over messages and return the strategy with its statistics and solution."""
    model, app = learner(mode), ClientApp()

    @app.train()
    def train(message: Message, context) -> Message:
        split = everyone.client(int(context.node_config["partition-id"]))
        arrays, _ = model.train({}, {}, torch.from_numpy(split.inputs), torch.from_numpy(split.labels), 0)
        return Message(RecordDict({"arrays": to_record(arrays)}), reply_to=message)

    strategy = server.AFL(ridge=RIDGE)
    with grid_type(app, everyone.num_clients) as grid:
        messages = strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid)
        arrays, _ = strategy.aggregate_train(1, grid.stream(messages))
    assert arrays is not None and strategy.solution is not None
    assert (from_record(arrays)["weight"] == strategy.solution.weight.numpy()).all()
    return strategy


@pytest.fixture(scope="module")
def centralised() -> dict[str, GramStats]:
    train = SOURCE.load().train
    x, y = torch.from_numpy(train.inputs), torch.from_numpy(train.labels)
    return {mode: learner(mode).observe(x, y) for mode in ("exact", "float64")}


CASES = [
    *((partition, clients) for clients in (1, 10, 100, 1000) for partition in (Dirichlet(0.01), Iid())),
    (Dirichlet(0.1), 1000),
    (Dirichlet(1.0), 1000),
    (Shards(2), 100),
    (Iid(), 2000),  # more clients than samples: some have none
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[1]}-{case[0]}")
def everyone(request) -> Federation:
    partition, clients = request.param
    return federate(SOURCE, partition, clients, 0)


def test_exact_heads_are_one_and_the_same(centralised, everyone):
    # In the nodes' own order where they are few: what the order is does not depend on how many there are.
    grid_type = LocalGrid if everyone.num_clients <= 100 else ShuffledGrid
    found, whole = federated(everyone, "exact", grid_type), centralised["exact"]
    assert found.statistics is not None and found.solution is not None
    assert found.statistics.sha256 == whole.sha256
    assert digest(found.solution.weight) == digest(whole.solve(RIDGE))


def test_float64_agrees_as_far_as_the_condition_allows(centralised, everyone):
    found, whole = federated(everyone, "float64", ShuffledGrid), centralised["float64"]
    assert found.statistics is not None and found.solution is not None
    for one, two in ((found.statistics.gram, whole.gram), (found.statistics.cross, whole.cross)):
        assert float((one - two).abs().max()) <= 1e-12 * float(two.abs().max())
    weight = whole.solve(RIDGE)
    eigenvalues = torch.linalg.eigvalsh(whole.gram) + RIDGE
    condition = float(eigenvalues.max() / eigenvalues.min())
    error = float((found.solution.weight - weight).abs().max()) / float(weight.abs().max())
    print(f"{everyone.num_clients} clients: condition {condition:.1e}, head error {error:.1e}")
    assert error <= max(1e-10, 10 * torch.finfo(torch.float64).eps * condition), f"{condition=:.1e}"


def test_the_centralised_head_is_least_squares(centralised):
    # sqrt(g) I below X and 0 below Y make ridge regression an ordinary least-squares problem.
    train, whole = SOURCE.load().train, centralised["float64"]
    h = learner("float64").features(torch.from_numpy(train.inputs))
    x = torch.cat([h, RIDGE**0.5 * torch.eye(256, dtype=torch.float64)])
    y = torch.zeros(len(x), 10, dtype=torch.float64)
    y[torch.arange(len(h)), torch.from_numpy(train.labels)] = 1
    oracle = torch.linalg.lstsq(x, y).solution
    condition = float(torch.linalg.cond(x)) ** 2
    error = float((whole.solve(RIDGE) - oracle).abs().max() / oracle.abs().max())
    assert error <= max(1e-10, 10 * torch.finfo(torch.float64).eps * condition), f"{condition=:.1e}"


def digest(weight: torch.Tensor) -> str:
    return hashlib.sha256(weight.numpy().tobytes()).hexdigest()
