"""The learners that must pass the conformance suite: one row each."""

from dataclasses import dataclass
from typing import Any

from clients.afl import AFL
from fedlab.stats import Identity, RandomRBF, RandomReLU

C = 4
"""Classes of every learner below."""


@dataclass(frozen=True)
class Row:
    """A learner and what it promises.

    Attributes
    ----------
    learner
        Any object with `observe`, `fit`, `features`, `scores`, `predict`, `train` and `num_classes = C`.
    exact
        Equal bits for every order, batch and partition; otherwise 1e-12.
    """

    name: str
    learner: Any
    exact: bool


RBF = RandomRBF(width=24, sigma=1.5, low=-1.0)
LEARNERS = [
    Row("afl-float64", AFL(C, Identity(), "float64"), exact=False),
    Row("afl-float64-relu", AFL(C, RandomReLU(width=24), "float64"), exact=False),
    Row("afl-float64-rbf", AFL(C, RBF, "float64"), exact=False),
    Row("afl-exact", AFL(C, Identity(), "exact"), exact=True),
    Row("afl-exact-relu", AFL(C, RandomReLU(width=24), "exact"), exact=True),
    Row("afl-exact-rbf", AFL(C, RBF, "exact"), exact=True),
]
