"""The small model of a client, taught by its own texts and by those it was sent; and the smallest, a head.

    min_W  [ sum_i CE(W; x_i) + w sum_j CE(W; s_j) ] / (n + w m) + g/2 |W|^2

x are embeddings of private texts, s of synthetic ones; they are frozen, and W is all that learns. (`fine_tuned.py`
trains what embeds too.) w is what a synthetic text weighs against a private one. g is chosen on private texts that
are held out, which costs nothing: the head stays with its client. A model that has seen private texts is private to
nobody it is shown to.

Li et al., FDKT, 2024, https://arxiv.org/abs/2405.14212 (augmented loss with a weight of its own). n private and m
synthetic texts, (n, d) embeddings, c classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from fedlab import checks
from fedlab.errors import BadInput

Weights = dict[str, np.ndarray]
"""What a client remembers of its small model: arrays by name."""
Beside = tuple[np.ndarray, np.ndarray, int]
"""What every fold of the private texts is fitted with: synthetic embeddings and labels, and the number of classes."""


@dataclass(frozen=True)
class Labelled:
    """Texts with labels, as a small model is taught by them.

    Attributes:
        x: Embeddings, (n, d).
        labels: Labels, (n,).
        texts: Texts, n of them.
    """

    x: Float32[np.ndarray, "n d"]
    labels: Int64[np.ndarray, " n"]
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Taught:
    """A small model that has learned.

    Attributes:
        weights: Arrays of the model: what it knows.
        report: Course of the training, in plain values. It says something of the private texts, and stays where they
            are.
    """

    weights: Weights
    report: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class SmallModel(Protocol):
    """What every small model offers."""

    def teach(self, private: Labelled, synthetic: Labelled, num_classes: int, seed: int) -> Taught:
        """Return the model after n private and m synthetic texts of c classes; either may be none."""
        ...

    def scores(
        self, weights: Mapping[str, np.ndarray], x: Float32[np.ndarray, "n d"], texts: Sequence[str]
    ) -> Float32[np.ndarray, "n c"]:
        """Return the logits of n texts, given with their embeddings."""
        ...

    @property
    def judge(self) -> Head:
        """What judges the sent texts where test texts are known as embeddings only."""
        ...


@dataclass(frozen=True)
class Head:
    """A softmax head on embeddings: a `SmallModel` that never looks at the texts.

    Args:
        weight: Weight w >= 0 of a synthetic text against a private one.
        penalties: Penalties g > 0 to choose from; one is taken as it is.
        folds: Parts into which the private texts are cut to choose g.
    """

    weight: float = 0.3
    penalties: Sequence[float] = (3e-4, 1e-3, 3e-3, 1e-2)
    folds: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalties", tuple(self.penalties))
        check_weight(self.weight)
        if not self.penalties:
            raise BadInput("penalties=[] must be numbers > 0: give at least one")
        for penalty in self.penalties:
            checks.number("penalties", penalty, above=0)
        checks.integer("folds", self.folds, least=2)

    def teach(self, private: Labelled, synthetic: Labelled, num_classes: int, seed: int) -> Taught:
        """Return `fit`'s head as `weight`."""
        return Taught({"weight": self.fit(private.x, private.labels, synthetic.x, synthetic.labels, num_classes, seed)})

    def scores(
        self, weights: Mapping[str, np.ndarray], x: Float32[np.ndarray, "n d"], texts: Sequence[str] = ()
    ) -> Float32[np.ndarray, "n c"]:
        """Return the logits of embeddings."""
        return scores(weights["weight"], x)

    @property
    def judge(self) -> Head:
        """Itself."""
        return self

    def fit(
        self,
        x: Float32[np.ndarray, "n d"],
        labels: Int64[np.ndarray, " n"],
        synthetic: Float32[np.ndarray, "m d"],
        synthetic_labels: Int64[np.ndarray, " m"],
        num_classes: int,
        seed: int,
    ) -> Float32[np.ndarray, "c e"]:
        """Return the head (c, d + 1), bias last; without any text it is zero.

        Args:
            x, labels: Private embeddings and their labels; none are fine, where there are synthetic ones.
            synthetic, synthetic_labels: Embeddings that were sent and their labels; none leave the private ones
                alone.
            num_classes: Number of classes, c.
            seed: Seed of the folds.
        """
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):  # matrices are small, and a second thread waits more than it works
            beside = synthetic, synthetic_labels, num_classes
            return self._fit(x, labels, beside, self._penalty(x, labels, beside, seed))

    def _penalty(self, x: np.ndarray, labels: np.ndarray, beside: Beside, seed: int) -> float:
        """Return the penalty whose heads name most held out texts rightly."""
        if len(self.penalties) == 1 or len(labels) < 2 * self.folds:
            return self.penalties[len(self.penalties) // 2]
        fold = np.random.default_rng(seed).permutation(len(labels)) % self.folds
        right = dict.fromkeys(self.penalties, 0)
        for part in range(self.folds):
            out = fold == part
            for penalty in self.penalties:
                head = self._fit(x[~out], labels[~out], beside, penalty)
                right[penalty] += int((scores(head, x[out]).argmax(1) == labels[out]).sum())
        best = max(right.values())
        # Of equally good penalties the largest: it trusts few texts least.
        return max(penalty for penalty, number in right.items() if number == best)

    def _fit(self, x: np.ndarray, labels: np.ndarray, beside: Beside, penalty: float) -> Float32[np.ndarray, "c e"]:
        synthetic, synthetic_labels, num_classes = beside
        n, m = len(labels), len(synthetic_labels) if self.weight else 0
        features = np.concatenate([x, synthetic[:m]])
        targets = np.concatenate([labels, synthetic_labels[:m]])
        weights = np.concatenate([np.ones(n), np.full(m, self.weight)]) / (n + self.weight * m or 1.0)
        head = np.zeros((num_classes, features.shape[1] + 1), np.float32)
        present = np.unique(targets)
        if len(present) < 2:
            head[present, -1] = 1.0  # one class is all that was ever seen
            return head
        from sklearn.linear_model import LogisticRegression

        # scikit-learn's C multiplies the sum of the losses, which here is their mean.
        model = LogisticRegression(C=1 / penalty, max_iter=1000, tol=1e-5).fit(features, targets, weights)
        coefficients, intercept = model.coef_, model.intercept_
        if len(present) == 2:  # one row says both
            coefficients = np.vstack([-coefficients, coefficients]) / 2
            intercept = np.repeat(intercept, 2) / 2 * [-1, 1]
        head[:, -1] = -np.inf  # what was never seen is never said
        head[present, :-1], head[present, -1] = coefficients, intercept
        return np.nan_to_num(head, neginf=-1e30)


def check_weight(weight: float) -> None:
    """Refuse (BadInput) a weight of synthetic texts that is no number >= 0."""
    checks.number("weight", weight, least=0, remedy="1 lets a synthetic text weigh as much as a private one")


def scores(head: Float32[np.ndarray, "c e"], x: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n c"]:
    """Return the logits of embeddings."""
    return x @ head[:, :-1].T + head[:, -1]
