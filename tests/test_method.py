"""The contract of a method: the example of its docstring learns, and whoever leaves a method out is told which."""

import json

import numpy as np
import pytest
import torch
from flwr.serverapp import strategy as flower

from clients.app import app as client_app
from clients.sgd import SGD
from fedlab import method
from fedlab.engine.aggregation.replies import sum_of
from fedlab.engine.aggregation.strategy import FedlabStrategy, FlowerStrategy, contract_of
from fedlab.engine.messages.partial_sums import ArraySum
from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput
from fedlab.method import Learner, learner_of
from strategies.app import run
from tests.strategies.test_app import config


class NearestMean(Learner):
    def __init__(self, num_classes):
        self.num_classes = num_classes

    def train(self, arrays, config, x, labels, seed):
        one_hot = torch.eye(self.num_classes, dtype=torch.float64)[labels]
        return {"sums": (one_hot.T @ x.double()).numpy(), "counts": one_hot.sum(0).numpy()}, {}

    def scores(self, arrays, h):
        return -torch.cdist(h.double(), torch.tensor(arrays["means"]))


class Plain:
    """The same without the contract's class: four methods, and no default."""

    def __init__(self, num_classes):
        own = NearestMean(num_classes)
        self.train, self.scores = own.train, own.scores

    def initial(self, d0, seed):
        return {}

    def features(self, x):
        return x


class Means(FedlabStrategy):
    streaming = one_round = True
    rounds_per_step = 1
    partial_sum = ArraySum

    def aggregate_train(self, server_round, replies):
        total = sum_of(replies)
        return to_record({"means": total["sums"] / total["counts"].clip(1)[:, None]}), None


class ByItself(Means):
    partial_sum = None


def outcome(learner, strategy, clients=5):
    named = {part: {"_target_": f"{__name__}.{cls.__name__}"} for part, cls in learner.items() | strategy.items()}
    settings = config(clients=clients, **named)
    with LocalGrid(client_app, clients, {"config": json.dumps(settings)}) as grid:
        result, arrays = run(MeteredGrid(grid), settings)
    return result, from_record(arrays)


@pytest.mark.parametrize("learner", [NearestMean, Plain])
@pytest.mark.parametrize("strategy", [Means, ByItself])
def test_the_example_is_a_whole_method(learner, strategy):
    result, model = outcome({"client": learner}, {"strategy": strategy})
    assert result["accuracy"] > 0.85 and result["strategy"] == strategy.__name__
    alone, same = outcome({"client": learner}, {"strategy": strategy}, clients=1)
    assert alone["accuracy"] == result["accuracy"]
    np.testing.assert_allclose(model["means"], same["means"], rtol=1e-12)


def test_a_method_that_is_missing_is_named():
    class NoScores:
        def train(self): ...
        def initial(self): ...

    class Silent(Learner):
        def train(self, arrays, config, x, labels, seed):
            return {}, {}

    class Forgetful(Learner):
        remembers = True
        train = scores = NearestMean.scores

    with pytest.raises(BadInput, match=r"NoScores has no method features, scores: a learner has initial, train"):
        learner_of(NoScores())
    with pytest.raises(BadInput, match="int has no method initial, train, features, scores"):
        learner_of(3)
    with pytest.raises(BadInput, match="Silent has no method scores"):
        learner_of(Silent())
    with pytest.raises(BadInput, match="Forgetful has no method respond"):
        learner_of(Forgetful())


def test_what_is_left_out_has_the_contracts_default():
    class Remembering:
        def initial(self, d0, seed): ...
        def respond(self, *question): ...
        def features(self, x): ...
        def scores(self, arrays, h): ...

    plain, remembering, own = learner_of(Plain(3)), learner_of(Remembering()), SGD(3)
    assert learner_of(own) is own and not plain.remembers and remembering.remembers
    assert plain.train_many({}, {}, [], [], []) is None and plain.estimate_memory([1], 2) is None
    assert not plain.reads_texts and plain.train({}, {}, torch.zeros(0, 2), torch.zeros(0).long(), 0)[1] == {}


def test_flowers_strategies_enter_through_the_adapter_and_ours_do_not():
    theirs, ours = flower.FedMedian(), Means()
    assert contract_of(ours) is ours
    adapted = contract_of(theirs)
    assert isinstance(adapted, FlowerStrategy) and adapted.strategy is theirs
    assert not adapted.streaming and adapted.rounds_per_step is None and adapted.report() == {}


def test_both_sides_are_named_in_one_place():
    assert method.FedlabStrategy is FedlabStrategy
    with pytest.raises(AttributeError, match="has no attribute 'Strategy'"):
        method.Strategy  # noqa: B018
