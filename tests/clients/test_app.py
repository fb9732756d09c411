"""The ClientApp alone: what one node answers to one message."""

import json

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from clients.app import app
from fedlab.data.partition import Dirichlet
from fedlab.data.sources.catalogue import Digits
from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.simulation.host import node_of
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.features.backbones import Identity
from fedlab.stats import unpack
from fedlab.world import World, build

CLIENTS = 5
AFL = {"_target_": "clients.afl.AFL"}
SGD = {"_target_": "clients.sgd.SGD"}


def everyone(clients: int = CLIENTS, alpha: float = 0.1) -> World:
    return build(Digits(split="stratified", seed=0), Dirichlet(alpha=alpha), Identity(), clients, 3)


def ask(action: str, arrays: dict, partition: int = 0, client=AFL, nodes: int = CLIENTS, **config) -> Message:
    description = {
        "source": {"_target_": "fedlab.data.sources.Digits", "split": "stratified", "seed": 0},
        "partition": {"_target_": "fedlab.data.partition.Dirichlet", "alpha": config.pop("alpha", 0.1)},
        "backbone": {"_target_": "fedlab.features.backbones.Identity"},
        "clients": config.pop("clients", CLIENTS),
        "seed": 3,
        "device": "cpu",
        "client": client,
    }
    grid = LocalGrid(app, nodes, {"config": json.dumps(description)})
    content = RecordDict({"arrays": to_record(arrays) if arrays else ArrayRecord(), "config": ConfigRecord(config)})
    (reply,) = grid.send_and_receive([Message(content, node_of(partition), action)])
    return reply


@pytest.mark.parametrize("partition", range(CLIENTS))
def test_a_node_trains_on_its_own_samples(partition):
    statistics = unpack(from_record(ask("train", {}, partition).content["arrays"]))
    x, labels = everyone().client(partition)
    assert statistics.count == len(x) == len(labels)


def test_training_depends_on_seed_round_and_client_and_on_nothing_else():
    start = {"weight": np.zeros((10, 64), np.float32), "bias": np.zeros(10, np.float32)}

    def weights(partition: int, server_round: int) -> bytes:
        reply = ask("train", start, partition, SGD, **{"server-round": server_round})
        return from_record(reply.content["arrays"])["weight"].tobytes()

    assert weights(0, 1) == weights(0, 1)
    assert len({weights(0, 1), weights(0, 2), weights(1, 1)}) == 3


def test_a_node_evaluates_the_model_on_its_own_samples():
    x, labels = everyone().client(1)
    model = {"weight": np.random.default_rng(0).normal(size=(64, 10))}
    metrics = ask("evaluate", model, 1, {**AFL, "mode": "float64"}).content["metrics"]
    correct = (x.double().numpy() @ model["weight"]).argmax(1) == labels.numpy()
    assert metrics["num-examples"] == len(labels)
    assert metrics["accuracy"] == pytest.approx(correct.mean())


def test_a_node_without_samples_answers_so():
    counts = [len(everyone(400, 0.01).client(k)[1]) for k in range(400)]
    empty = counts.index(0)
    many = {"clients": 400, "nodes": 400, "alpha": 0.01}
    assert unpack(from_record(ask("train", {}, empty, **many).content["arrays"])).count == 0
    assert ask("evaluate", {"weight": np.zeros((64, 10))}, empty, **many).content["metrics"] == {"num-examples": 0}


def test_nodes_and_clients_must_agree():
    reason = ask("train", {}, nodes=6).error.reason
    assert reason.rstrip().endswith("the config describes 5 clients but 6 nodes take part: set clients=6")


def test_a_message_without_a_model_is_an_error_reply():
    reply = ask("evaluate", {}, 0)
    assert reply.has_error() and "KeyError: 'weight'" in reply.error.reason
