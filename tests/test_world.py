"""A world says what each client has: all of its samples, or what a stream has brought it."""

import numpy as np
import pytest
import torch

from fedlab.data.partition import Dirichlet
from fedlab.data.sources.catalogue import Digits
from fedlab.data.streams.availability import Availability
from fedlab.data.streams.tasks import ClassIncremental
from fedlab.errors import BadInput
from fedlab.features.backbones import Identity
from fedlab.world import build

CLIENTS = 8


def world(**stream):
    return build(Digits(split="stratified", seed=0), Dirichlet(alpha=0.3), Identity(), CLIENTS, 0, **stream)


def test_the_same_choices_give_the_same_object():
    assert world() is world()
    assert world(stream=ClassIncremental(2)) is world(stream=ClassIncremental(2), availability=None)
    assert world().client_stream is None


def test_without_a_stream_everyone_has_everything_at_once():
    x, labels, sizes = world().clients(range(CLIENTS))
    assert sizes == world().federation.sizes.tolist() and len(x) == len(labels) == 1437
    ((every, _),) = world().steps()
    assert every is world().train


def test_a_client_has_what_it_meets_and_what_it_remembers():
    everyone = world(stream=ClassIncremental(2))
    client_stream = everyone.client_stream
    assert client_stream is not None
    for client in range(CLIENTS):
        for step in range(3):
            x, labels = everyone.client(client, step)
            rows = client_stream.met(client, step)
            assert torch.equal(x, everyone.train[torch.from_numpy(rows)])
            assert np.isin(labels.numpy(), everyone.train_labels[client_stream.tasks.rows[step]].numpy()).all()
        met = [len(everyone.client(client, step)[1]) for step in range(3)]
        assert len(everyone.client(client, 2, None)[1]) == sum(met)
        assert len(everyone.client(client, 2, 5)[1]) == min(5, sum(met[:2])) + met[2]


def test_the_clients_of_a_step_are_the_step():
    everyone = world(stream=ClassIncremental(2))
    for step, (x, labels) in enumerate(everyone.steps()):
        theirs, classes, sizes = everyone.clients(range(CLIENTS), step)
        assert sum(sizes) == len(x) == len(theirs)
        assert sorted(labels.tolist()) == sorted(classes.tolist())


def test_clients_that_come_and_go_need_a_stream():
    with pytest.raises(BadInput, match=r"Availability\(lag=1.* there is no stream: choose one"):
        world(availability=Availability(lag=1))
    assert world(availability=Availability()).client_stream is None
