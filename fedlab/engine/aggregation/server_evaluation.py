"""The server's own evaluation of a model, on the test split: what clients would measure on their samples is data."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from flwr.app import ArrayRecord

from fedlab.engine.messages.records import from_record
from fedlab.evaluation.classification import classification
from fedlab.evaluation.stream import StreamEvaluation
from fedlab.method import Learner
from fedlab.world import World

ROWS = 4096
"""Test samples expanded at a time."""
KEPT_FEATURES = 2**30
"""Bytes of expanded test samples that stay from round to round; more are expanded anew."""


class ServerEvaluator:
    """The server's own evaluation: on the test split, or after each step of a stream on the classes met so far.

    Args:
        learner: Client side of the method: what makes scores of a model.
        everyone: World whose test split is used.
        rounds: Number of rounds of one step.
        every: Number of rounds after which there is another model to evaluate.
    """

    def __init__(self, learner: Learner, everyone: World, rounds: int, every: int = 1):
        self._learner, self._rounds, self._every = learner, rounds, every
        self._parts = everyone.test.split(ROWS)
        self._kept: list[torch.Tensor] = []
        self._labels = everyone.test_labels.cpu().numpy()
        self._evaluation = StreamEvaluation(everyone.client_stream) if everyone.client_stream else None

    def __call__(self, server_round: int, arrays: ArrayRecord) -> dict[str, float]:
        """Return the metrics of a model after a round; empty where there is nothing, or nothing new, to evaluate."""
        if server_round % self._every:
            return {}
        if self._evaluation is None:
            return classification(self._labels, self._scores(arrays).argmax(1).cpu().numpy())
        if server_round == 0:  # nothing is exposed yet
            return {}
        return self._evaluation.evaluate((server_round - 1) // self._rounds, self._scores(arrays).cpu().numpy())

    def _scores(self, arrays: ArrayRecord) -> torch.Tensor:
        weights = from_record(arrays)
        return torch.cat([self._learner.scores(weights, features) for features in self._features()])

    def _features(self) -> Iterable[torch.Tensor]:
        """Expanded test samples: kept for the next round where they are not many."""
        if self._kept:
            return self._kept
        parts = map(self._learner.features, self._parts)
        first = next(parts)
        if first.element_size() * first.shape[1] * len(self._labels) > KEPT_FEATURES:
            return chain([first], parts)
        self._kept = [first, *parts]
        return self._kept

    def summary(self) -> dict[str, Any]:
        """Return what the metrics of all steps come to; nothing where there are no steps."""
        return self._evaluation.summary() if self._evaluation else {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return self._evaluation.state_dict() if self._evaluation else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` once returned."""
        if self._evaluation:
            self._evaluation.load_state_dict(state)
