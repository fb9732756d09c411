"""The learners that must pass the conformance suite: one row each."""

from dataclasses import dataclass
from typing import Any

from clients.acil import ACIL
from clients.aefocl import AEFOCL
from clients.afl import AFL
from clients.air import AIR
from clients.dsal import DSAL
from clients.gacl import GACL
from clients.gkeal import GKEAL
from fedlab.analytic import DualReLUTanh, Identity, RandomRBF, RandomReLU
from fedlab.stats import ClassWeights

C = 4
"""Classes of every learner below."""


@dataclass(frozen=True)
class Row:
    """A learner and what it promises.

    Attributes:
        learner: Any object with `observe`, `fit`, `features`, `scores`, `predict`, `train` and `num_classes = C`.
        exact: Equal bits for every order, batch and partition; otherwise 1e-12.
    """

    name: str
    learner: Any
    exact: bool


class SecondRound(AIR):
    """AIR when the counts of everybody are known."""

    weights = ClassWeights.tempered([40, 31, 58, 26])

    def observe(self, x, labels, weights=None):
        return super().observe(x, labels, weights or self.weights)

    def train(self, arrays, config, x, labels, seed):
        return super().train(arrays, {"class-weights": list(self.weights.values)}, x, labels, seed)


RBF = RandomRBF(width=24, sigma=1.5, low=-1.0)
RELU = RandomReLU(width=24)


def rows(name, make):
    return [Row(f"{name}-{mode}", make(mode), mode == "exact") for mode in ("float64", "exact")]


LEARNERS = [
    *rows("afl", lambda mode: AFL(C, Identity(), mode)),
    *rows("afl-relu", lambda mode: AFL(C, RELU, mode)),
    *rows("afl-rbf", lambda mode: AFL(C, RBF, mode)),
    *rows("acil", lambda mode: ACIL(C, RELU, mode)),
    *rows("gacl", lambda mode: GACL(C, RELU, mode)),
    *rows("gkeal", lambda mode: GKEAL(C, RBF, mode)),
    *rows("dsal", lambda mode: DSAL(C, DualReLUTanh(width=12), mode)),
    *rows("air", lambda mode: AIR(C, RELU, mode)),
    *rows("air-tempered", lambda mode: AIR(C, RELU, mode, tau=0.5)),
    *rows("air-second-round", lambda mode: SecondRound(C, RELU, mode, form="two_rounds")),
    *rows("aefocl", lambda mode: AEFOCL(C, RELU, mode)),
    *rows("aefocl-identity", lambda mode: AEFOCL(C, Identity(), mode, limit=2.0)),
]
