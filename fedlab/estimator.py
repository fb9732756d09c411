"""A scikit-learn classifier around any analytic learner: sums are kept, and solved when a score is asked for.

    fit = partial_fit from nothing        a + b = the classifier of both's samples        forget(X, y) = a - (X, y)

Scores are ridge regression's answer to one-hot targets: each is the best linear estimate of P(y | x), but
nothing keeps a row of them in [0, 1] or makes it sum to 1. `predict_proba` is the distribution nearest to the
row (`fedlab.stats.arithmetic.simplex`). A softmax would answer at most e / (e + c - 1) for scores in [0, 1], 2.7 %
at 100 classes. Neither is calibrated, and this one has exact zeros; where a probability is needed, scikit-learn's
CalibratedClassifierCV makes one of `decision_function`.

n samples, d0 features, c classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from fedlab import checks
from fedlab.analytic import Analytic, Identity, RandomReLU
from fedlab.analytic.expansion import Expansion
from fedlab.analytic.universe import over
from fedlab.errors import BadInput
from fedlab.stats.arithmetic.simplex import nearest_distribution


@dataclass(frozen=True, eq=False)
class Model:
    """What has been learnt: immutable, so that two classifiers may share it."""

    learner: Analytic
    statistics: Any
    ridge: float | str

    @cached_property
    def weight(self) -> Tensor:
        """The head, solved when it is first asked for."""
        return self.learner.fit(self.statistics, self.ridge)


class AnalyticClassifier(ClassifierMixin, BaseEstimator):
    """Closed-form classifier whose training adds up.

    Without an intercept scores grow in proportion to a sample: standardise the features, or add a constant one,
    where classes differ by length alone. New classes may appear in any `partial_fit`. A class that was announced
    but not seen, or forgotten again, is never predicted: its score is minus infinity, its probability 0.

    Args:
        width : int or None: Random features between the input and the head; None: the features as they are, without
            intercept.
        ridge : float or 'gcv': Ridge g >= 0, or 'gcv' for generalised cross-validation.
        random_state : int: Seed of the random features. Classifiers that are to be merged need the same.
        mode : {'float64', 'exact'}: Number mode. 'exact': fixed-point sums, the same bits in whichever order and
            parts the samples come.
        limit : float: Public range of the features (exact mode): what lies outside is clipped.
        bits : int: Word length of the features (exact mode).
        device : str: Device where the samples are summed; the head is solved on the CPU.

    Attributes:
        classes_ : ndarray (c,): Labels seen or announced so far, sorted.
        n_features_in_ : int: Number of features, d0.
    """

    classes_: np.ndarray
    n_features_in_: int
    feature_names_in_: np.ndarray
    model_: Model

    def __init__(self, width=2048, ridge=1.0, random_state=0, mode="float64", limit=1.0, bits=12, device="cpu"):
        self.width = width
        self.ridge = ridge
        self.random_state = random_state
        self.mode = mode
        self.limit = limit
        self.bits = bits
        self.device = device

    # -- what a method says -----------------------------------------------------------------------------------

    _model = Model
    _method: type[Analytic]
    _own: tuple[str, ...] = ()  # parameters that the method's learner takes beside the common ones

    def _learner(self, num_classes: int) -> Analytic:
        own = {name: getattr(self, name) for name in self._own}
        return self._method(num_classes, self._expansion(), self.mode, self.limit, self.bits, **own)

    def _expansion(self) -> Expansion:
        if self.width is None:
            return Identity()
        return RandomReLU(checks.integer("width", self.width), checks.integer("random_state", self.random_state))

    # -- learning ---------------------------------------------------------------------------------------------

    def fit(self, X, y):
        """Learn from these samples alone."""
        with self._unchanged_by_failure():
            for name in [name for name in vars(self) if name.endswith("_")]:
                delattr(self, name)
            self.partial_fit(X, y)
            self.model_.weight  # noqa: B018 - a ridge that cannot be is refused here, not at the first score
        return self

    def partial_fit(self, X, y, classes=None):
        """Learn these samples too.

        Args:
            X : array (n, d0):
            y : array (n,): Labels of any one kind; some may be new.
            classes : array or None: Labels to expect. Not needed: they only give `classes_` its final length early.
        """
        return self._learn(X, y, classes)

    def _learn(self, X, y, classes, **how):
        with self._unchanged_by_failure():
            X, y = self._checked(X, y, reset=not hasattr(self, "model_"))
            announced = [] if classes is None else [np.asarray(classes)]
            known = [self.classes_] if hasattr(self, "model_") else []
            everything = union([*known, np.unique(y), *announced])
            before = self._over(everything) if known else None
            learner = self._learner(len(everything))
            if before is not None:
                check_same(before.learner, learner, "these samples", "call fit to begin again")
            labels = torch.from_numpy(np.searchsorted(everything, y)).to(self.device)
            new, old = learner.observe(self._tensor(X), labels), before and before.statistics
            statistics = self._grown(learner, old, new, **how)
            self.classes_, self.model_ = everything, self._model(learner, statistics, self.ridge)
        return self

    def _grown(self, learner: Any, before: Any, new: Any) -> Any:
        """Return the statistics with some samples' more; before is None at first."""
        return new if before is None else before + new

    def forget(self, X, y):
        """Unlearn samples that were learnt before: afterwards the classifier is that of the others.

        Sums cannot always tell samples that were never learnt from those that were. What can be noticed is
        refused: more samples of a class than there are and, in exact mode, a sum that no samples have.
        """
        return self._unlearn(X, y)

    def _unlearn(self, X, y, **how):
        check_is_fitted(self, "model_")
        X, y = self._checked(X, y, reset=False)
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise BadInput(f"cannot forget samples of class {unknown.tolist()[0]!r}: it was never learnt")
        labels = torch.from_numpy(np.searchsorted(self.classes_, y)).to(self.device)
        new = self.model_.learner.observe(self._tensor(X), labels)
        self.model_ = replace(self.model_, statistics=self._reduced(self.model_.statistics, new, **how))
        return self

    def _reduced(self, before: Any, gone: Any) -> Any:
        """Return the statistics without some samples'."""
        return before - gone

    def merge(self, other):
        """Return the classifier of this one's and the other's samples, with the parameters of this one."""
        check_is_fitted(self, "model_")
        check_is_fitted(other, "model_")
        if type(self) is not type(other):
            raise BadInput(f"cannot merge {type(self).__name__} with {type(other).__name__}: use one method")
        if self.n_features_in_ != other.n_features_in_:
            widths = f"{self.n_features_in_} and {other.n_features_in_}"
            raise BadInput(f"cannot merge classifiers of {widths} features: give all the same columns")
        named = [one.feature_names_in_.tolist() for one in (self, other) if hasattr(one, "feature_names_in_")]
        if named and named[0] != named[-1]:
            raise BadInput(f"cannot merge features {named[0]} with {named[-1]}: name them alike")
        classes = union([self.classes_, other.classes_])
        mine, theirs = self._over(classes), other._over(classes)
        check_same(mine.learner, theirs.learner, "the other", "fit both with the same parameters")
        merged = type(self)(**self.get_params())
        merged.n_features_in_, merged.classes_ = self.n_features_in_, classes
        if named:
            merged.feature_names_in_ = np.array(named[0], dtype=object)
        merged.model_ = replace(mine, statistics=mine.statistics + theirs.statistics)
        return merged

    def __add__(self, other):
        return self.merge(other) if isinstance(other, AnalyticClassifier) else NotImplemented

    # -- scoring ----------------------------------------------------------------------------------------------

    def decision_function(self, X):
        """Return the scores (n, c); with two classes the second's minus the first's, (n,)."""
        scores = self._scores(X).numpy()
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict(self, X):
        """Return the label of the largest score."""
        columns = self._scores(X).argmax(1).numpy()
        return self.classes_[columns]

    def predict_proba(self, X):
        """Return the distribution over the classes that is nearest to the scores."""
        return nearest_distribution(self._scores(X)).numpy()

    def _scores(self, X) -> Tensor:
        check_is_fitted(self, "model_")
        x = self._tensor(validate_data(self, X, dtype=[np.float64, np.float32], reset=False))
        seen = self.model_.statistics.class_counts > 0
        if not bool(seen.any()):
            raise BadInput("every sample has been forgotten: learn some before asking for a score")
        scores = self.model_.learner.predict_scores(self.model_.weight, x).cpu()
        return scores.masked_fill_(~seen.cpu(), -torch.inf)

    @property
    def statistics_(self):
        """The sums that were learnt: what a client sends."""
        check_is_fitted(self, "model_")
        return self.model_.statistics

    @property
    def weight_(self) -> np.ndarray:
        """The head, a column per class."""
        check_is_fitted(self, "model_")
        return self.model_.weight.numpy().copy()

    # -- keeping order ----------------------------------------------------------------------------------------

    def _over(self, classes: np.ndarray) -> Model:
        """Return the model over these classes, which contain its own."""
        if len(classes) == len(self.classes_):
            return self.model_
        learner = replace(self.model_.learner, num_classes=len(classes))
        columns = np.searchsorted(classes, self.classes_).tolist()
        statistics = over(self.model_.statistics, columns, len(classes))
        return replace(self.model_, learner=learner, statistics=statistics)

    def _checked(self, X, y, reset: bool) -> tuple[Any, Any]:
        checked: Any = validate_data(self, X, y, dtype=[np.float64, np.float32], reset=reset)
        X, y = checked
        # Not check_classification_targets: a small batch of many classes is no regression, and no warning.
        if type_of_target(y, input_name="y") not in ("binary", "multiclass"):
            raise BadInput(f"Unknown label type: {y.dtype} values such as {y[0]!r}; expected classes")
        return X, y

    def _tensor(self, X: Any) -> Tensor:
        return torch.tensor(X, device=self.device)

    @contextmanager
    def _unchanged_by_failure(self) -> Iterator[None]:
        kept = dict(vars(self))
        try:
            yield
        except BaseException:
            vars(self).clear()
            vars(self).update(kept)
            raise


def union(labels: list[np.ndarray]) -> np.ndarray:
    """Return all labels, sorted, refusing to mix numbers with text: NumPy would make text of the numbers."""
    kinds = {"text" if one.dtype.kind in "OUST" else "numbers" for one in labels if len(one)}
    if len(kinds) > 1:
        shown = ", ".join(repr(one[0]) for one in labels if len(one))
        raise BadInput(f"labels are text here and numbers there ({shown}): use one kind")
    return np.unique(np.concatenate([one for one in labels if len(one)]))


def check_same(mine: Analytic, theirs: Analytic, who: str, remedy: str) -> None:
    """Refuse to add sums of different features."""
    for name in ("expansion", "mode", "limit", "bits"):
        a, b = getattr(mine, name), getattr(theirs, name)
        if a != b:
            raise BadInput(f"learnt with {name}={a}, but {who} with {name}={b}: {remedy}")
