"""What the README promises of the digits: accuracy at every partition and seed, and the harder last fifth."""

from __future__ import annotations

import pytest
import torch

from clients.afl import AFL
from fedlab.analytic import RandomReLU
from fedlab.data.sources.catalogue import Digits


def accuracy(split: str, seed: int) -> float:
    data = Digits(split=split, seed=seed).load()
    learner = AFL(num_classes=10, expansion=RandomReLU(2048, seed))
    # One head for every partition (see the conformance suite), so one partition stands for all.
    weight = learner.fit(learner.observe(torch.from_numpy(data.train.inputs), torch.from_numpy(data.train.labels)))
    predicted = learner.predict(weight, torch.from_numpy(data.test.inputs))
    return float((predicted == torch.from_numpy(data.test.labels)).double().mean())


@pytest.mark.parametrize("seed", range(10))
def test_a_stratified_fifth_is_predicted_to_97_percent(seed):
    assert accuracy("stratified", seed) >= 0.97


def test_the_last_fifth_is_another_distribution():
    assert 0.93 <= accuracy("last", 0) < 0.97
