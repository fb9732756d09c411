import os
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from clients.dsal import DSAL
from clients.estimators import (
    ACILClassifier,
    AEFOCLClassifier,
    AFLClassifier,
    AIRClassifier,
    DSALClassifier,
    GACLClassifier,
    GKEALClassifier,
)
from fedlab.analytic import DualReLUTanh
from fedlab.errors import BadInput

FLOAT = [
    AFLClassifier(width=64),
    AFLClassifier(width=None),
    ACILClassifier(width=64),
    GACLClassifier(width=64),
    GKEALClassifier(width=64, sigma=2.0, low=-3.0, high=3.0),
    DSALClassifier(width=64),
    AIRClassifier(width=64),
    AEFOCLClassifier(width=64),
]
EXACT = [clone(one).set_params(mode="exact", limit=8.0, bits=14) for one in FLOAT]
SUMS = [one for one in EXACT if not isinstance(one, DSALClassifier)]
"""Those of which everything is a sum; the head of DS-AL depends on the order of its phases."""


# No check is waived. scikit-learn itself skips one, check_array_api_input, unless SCIPY_ARRAY_API is set before
# SciPy is imported, as its documentation of array API support says: the test after this one sets it.
@parametrize_with_checks(FLOAT + EXACT)
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


def test_scikit_learn_accepts_it_with_array_api_dispatch():
    script = (
        "from sklearn.utils.estimator_checks import check_array_api_input\n"
        "from tests.clients.test_estimators import FLOAT\n"
        "for one in FLOAT:\n"
        "    check_array_api_input(type(one).__name__, one, 'numpy', expect_only_array_outputs=False)\n"
        "print('accepted')"
    )
    env = {**os.environ, "SCIPY_ARRAY_API": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.stdout == "accepted\n", done.stderr


def each(estimators):
    return pytest.mark.parametrize("estimator", estimators, ids=repr)


@pytest.fixture(scope="module")
def data():
    """Samples on a grid, with labels whose sorted order is not that of their numbers."""
    random = np.random.default_rng(0)
    centres = random.uniform(-2, 2, size=(5, 6))
    y = random.integers(5, size=300)
    X = centres[y] + 0.3 * random.normal(size=(300, 6))
    return X, np.array(["pear", "fig", "kiwi", "apple", "plum"])[y]


# -- sums ----------------------------------------------------------------------------------------------------


def same(a, b):
    return (
        a.statistics_.sha256 == b.statistics_.sha256
        and np.array_equal(a.weight_, b.weight_)
        and a.classes_.tolist() == b.classes_.tolist()
    )


@each(SUMS)
def test_merging_is_fitting_to_the_union_whoever_holds_which_class(estimator, data):
    X, y = data
    together = clone(estimator).fit(X, y)
    for mine in (np.arange(300) < 20, np.isin(y, ["apple", "pear"])):
        a, b = (clone(estimator).fit(X[rows], y[rows]) for rows in (mine, ~mine))
        assert same(a + b, together) and same(b.merge(a), together)
        assert a.statistics_.count == mine.sum()


@each(SUMS)
def test_classes_may_come_one_by_one_in_any_order(estimator, data):
    X, y = data
    together = clone(estimator).fit(X, y)
    for order in (["plum", "apple", "kiwi", "pear", "fig"], ["fig", "kiwi", "pear", "plum", "apple"]):
        learner = clone(estimator)
        for label in order:
            learner.partial_fit(X[y == label], y[y == label])
            assert learner.classes_.tolist() == sorted(order[: order.index(label) + 1])
            assert set(learner.predict(X)) <= set(learner.classes_)
        assert same(learner, together)


@each(SUMS)
def test_forgetting_is_never_having_learnt(estimator, data):
    X, y = data
    kept = np.arange(300) < 250
    forgetful = clone(estimator).fit(X, y).forget(X[~kept], y[~kept])
    assert same(forgetful, clone(estimator).fit(X[kept], y[kept]))


@each(SUMS)
def test_batches_and_order_within_them_leave_no_trace(estimator, data):
    X, y = data
    together, learner = clone(estimator).fit(X, y), clone(estimator)
    for rows in np.array_split(np.random.default_rng(1).permutation(300), 7):
        learner.partial_fit(X[rows], y[rows])
    assert same(learner, together)


@each([one for one in FLOAT if not isinstance(one, DSALClassifier)])
def test_in_float64_all_this_holds_up_to_rounding(estimator, data):
    X, y = data
    estimator, first = clone(estimator).set_params(ridge=1.0), np.arange(300) < 120
    if isinstance(estimator, AEFOCLClassifier):  # from moments with other last bits other samples are drawn
        estimator.set_params(spread=0.0)
    a, b = (clone(estimator).fit(X[rows], y[rows]) for rows in (first, ~first))
    together, scores = clone(estimator).fit(X, y), a.decision_function(X)
    assert np.allclose((a + b).decision_function(X), together.decision_function(X), atol=1e-8)
    assert np.allclose((a + b).forget(X[~first], y[~first]).decision_function(X), scores, atol=1e-8)
    assert np.array_equal(a.decision_function(X), scores)


def test_a_sum_is_solved_when_a_score_is_asked_for(data):
    X, y = data
    learner = ACILClassifier(width=64).partial_fit(X, y)
    assert "weight" not in vars(learner.model_)
    learner.predict(X)
    assert "weight" in vars(learner.model_)


# -- phases --------------------------------------------------------------------------------------------------


def dual(**parameters):
    return DSALClassifier(width=40, mode="exact", limit=8.0, bits=14, **parameters)


def phases_of(data):
    """Which samples come in which phase; half of the plums return in the last."""
    y = data[1]
    late = (y == "plum") & (np.arange(300) % 2 == 0)
    names = (["plum", "kiwi"], ["apple"], ["pear", "fig"])
    first, second, third = (np.isin(y, these) for these in names)
    return [first & ~late, second, third | late]


def test_the_head_of_dsal_is_that_of_its_phases_in_their_order(data):
    X, y = data
    learner, statistics = dual(), []
    method = DSAL(5, DualReLUTanh(40), "exact", 8.0, 14)
    for rows in phases_of(data):
        learner.partial_fit(X[rows], y[rows])
        labels = np.searchsorted(np.unique(data[1]), y[rows])
        statistics.append(method.observe(torch.tensor(X[rows]), torch.tensor(labels)))
    assert np.array_equal(learner.weight_, method.fit(statistics).numpy())
    assert not np.array_equal(learner.weight_, method.fit(statistics[::-1]).numpy())
    assert (learner.predict(X) == y).mean() > 0.9


def test_batches_of_a_phase_of_dsal_leave_no_trace(data):
    X, y = data
    whole, parts = dual(), dual()
    for rows in phases_of(data):
        whole.partial_fit(X[rows], y[rows])
        for t, half in enumerate(np.array_split(np.flatnonzero(rows), 2)):
            parts.partial_fit(X[half], y[half], new_phase=t == 0)
    assert np.array_equal(whole.weight_, parts.weight_)


def test_streams_of_phases_are_merged_and_forgotten_phase_by_phase(data):
    X, y = data
    a, b, both = (dual(keep_phases=True) for _ in range(3))
    phases = phases_of(data)
    for t, rows in enumerate(phases):
        mine = rows & (np.arange(300) % 3 == 0)
        a.partial_fit(X[mine], y[mine])
        both.partial_fit(X[rows], y[rows])
        if t < 2:  # the other client is a phase behind
            b.partial_fit(X[rows & ~mine], y[rows & ~mine])
    behind, last = a + b, phases[2] & (np.arange(300) % 3 != 0)
    assert np.array_equal(behind.partial_fit(X[last], y[last], new_phase=False).weight_, both.weight_)
    gone = phases[0] & (np.arange(300) % 3 != 0)
    without = dual(keep_phases=True)
    for t, rows in enumerate(phases):
        rows = rows & ~gone if t == 0 else rows
        without.partial_fit(X[rows], y[rows])
    assert np.array_equal(both.forget(X[gone], y[gone], phase=0).weight_, without.weight_)


def test_what_dsal_did_not_keep_it_neither_forgets_nor_merges(data):
    X, y = data
    first, second, _ = phases_of(data)
    learner, other = (dual().fit(X[first], y[first]) for _ in range(2))
    assert same_head(learner + other, dual().fit(np.r_[X[first], X[first]], np.r_[y[first], y[first]]))
    some = first & (np.arange(300) % 5 == 0)
    assert same_head(clone_of(learner).forget(X[some], y[some]), dual().fit(X[first & ~some], y[first & ~some]))
    learner.partial_fit(X[second], y[second])
    for call, message in (
        (lambda: learner.forget(X[second], y[second]), "there are 2 phases: say in which one"),
        (lambda: learner.forget(X[first], y[first], phase=0), "phase 0 is closed and was not kept"),
        (lambda: learner.forget(X[first], y[first], phase=2), r"phase 2 lies outside 0\.\.1"),
        (lambda: learner + other, "cannot merge streams of 2 and 1 phases that were not kept"),
        (lambda: clone_of(learner).set_params(ridge=1.0).partial_fit(X, y), r"have ridge=0\.1, others ridge=1\.0"),
        (lambda: dual(ridge="gcv").fit(X, y), "ridge='gcv': two streams need a number"),
    ):
        with pytest.raises(BadInput, match=message):
            call()
    learner.forget(X[second], y[second], phase=1)
    kept = np.isin(learner.classes_, other.classes_)
    assert np.allclose(learner.weight_[:, kept], other.weight_) and not learner.weight_[:, ~kept].any()


def same_head(a, b):
    return np.array_equal(a.weight_, b.weight_)


def clone_of(fitted):
    return pickle.loads(pickle.dumps(fitted))


# -- methods -------------------------------------------------------------------------------------------------


def imbalanced():
    """Two overlapping classes, the second a twentieth of the first."""
    random = np.random.default_rng(3)
    y = np.r_[np.zeros(600, int), np.ones(30, int)]
    return random.normal(size=(630, 2)) + 1.5 * y[:, None], y


@pytest.mark.parametrize("balancing", [AIRClassifier(width=64), AEFOCLClassifier(width=64)], ids=repr)
def test_a_rare_class_is_found_where_classes_are_balanced(balancing):
    X, y = imbalanced()
    plain = ACILClassifier(width=64).fit(X, y).predict(X)
    recall = (clone(balancing).fit(X, y).predict(X) == y)[y == 1].mean()
    assert recall > 0.6 > (plain == y)[y == 1].mean() + 0.2


def test_what_balances_nothing_is_acil(data):
    X, y = data
    acil = ACILClassifier(width=64, mode="exact", limit=8.0).fit(X, y)
    air = AIRClassifier(width=64, mode="exact", limit=8.0, tau=0.0).fit(X, y)
    gacl = GACLClassifier(width=64, mode="exact", limit=8.0).fit(X, y)
    assert same_head(acil, air) and same_head(acil, gacl)
    rows = np.concatenate([np.flatnonzero(y == label)[:40] for label in np.unique(y)])
    acil, aef = (
        method(width=64, mode="exact", limit=8.0).fit(X[rows], y[rows]) for method in (ACILClassifier, AEFOCLClassifier)
    )
    assert same_head(acil, aef)


def test_digits_are_learnt_in_a_pipeline_and_a_grid():
    X, y = load_digits(return_X_y=True)
    pipeline = make_pipeline(MinMaxScaler(), AFLClassifier(width=300))
    grid = GridSearchCV(pipeline, {"aflclassifier__ridge": [0.1, 1.0, "gcv"]}, cv=3).fit(X[:1200], y[:1200])
    assert grid.score(X[1200:], y[1200:]) > 0.9
    assert clone(grid.best_estimator_).fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > 0.9


# -- labels and scores ---------------------------------------------------------------------------------------


@each(FLOAT)
def test_a_class_that_was_only_announced_is_never_predicted(estimator, data):
    X, y = data
    if isinstance(estimator, AEFOCLClassifier):  # pseudo-features depend on the place of a class among all
        estimator = clone(estimator).set_params(spread=0.0)
    learner = clone(estimator).partial_fit(X, y, classes=["zucchini", "apple", "nut"])
    assert learner.classes_.tolist() == ["apple", "fig", "kiwi", "nut", "pear", "plum", "zucchini"]
    unseen = np.isin(learner.classes_, ["nut", "zucchini"])
    assert (learner.decision_function(X)[:, unseen] == -np.inf).all()
    shares = learner.predict_proba(X)
    assert not shares[:, unseen].any() and np.allclose(shares.sum(1), 1)
    assert np.array_equal(learner.classes_[shares.argmax(1)], learner.predict(X))
    assert np.allclose(shares[:, ~unseen], clone(estimator).fit(X, y).predict_proba(X), atol=1e-6)


def test_a_class_that_was_forgotten_is_no_longer_predicted(data):
    X, y = data
    gone = y == "kiwi"
    learner = AFLClassifier(width=64).fit(X, y).forget(X[gone], y[gone])
    assert "kiwi" not in learner.predict(X) and (learner.predict(X) == y)[~gone].mean() > 0.9
    learner.forget(X[~gone], y[~gone])
    with pytest.raises(BadInput, match="every sample has been forgotten"):
        learner.predict(X)
    assert (learner.partial_fit(X, y).predict(X) == y).mean() > 0.9


@pytest.mark.parametrize(
    "labels",
    [np.array([-3, 7, 10**12]), np.array([0.5, 1.5, 2.5]) * 2, np.array(["b", "a", "ähre"], dtype=object)],
    ids=["integers", "whole floats", "objects"],
)
def test_labels_of_any_kind_come_back(labels):
    random = np.random.default_rng(0)
    y = labels[random.integers(3, size=90)]
    X = np.eye(4)[np.searchsorted(np.sort(labels), y)] + random.normal(size=(90, 4)) * 0.1
    learner = AFLClassifier(width=64).fit(X, y)
    assert (learner.predict(X) == y).all() and learner.classes_.tolist() == sorted(labels.tolist())


def test_two_classes_have_one_score():
    X, y = imbalanced()
    learner = AFLClassifier(width=64).fit(X, y > 0)
    scores = learner.decision_function(X)
    assert scores.shape == (630,) and np.array_equal(learner.predict(X), scores > 0)
    assert np.allclose(learner.predict_proba(X)[:, 1], ((1 + scores) / 2).clip(0, 1))


def test_named_columns_are_kept_and_compared(data):
    X, y = data
    frame = pd.DataFrame(X, columns=list("uvwxyz"))
    a, b = (AFLClassifier(width=64).fit(frame[rows], y[rows]) for rows in (slice(0, 150), slice(150, None)))
    assert (a + b).feature_names_in_.tolist() == list("uvwxyz")
    assert ((a + b).predict(frame) == y).mean() > 0.9
    with pytest.raises(BadInput, match="cannot merge features"):
        a + AFLClassifier(width=64).fit(frame.rename(columns={"u": "t"}), y)


# -- bad input -----------------------------------------------------------------------------------------------


@each(FLOAT + EXACT)
def test_a_refused_batch_changes_nothing(estimator, data):
    X, y = data
    learner = clone(estimator).fit(X, y)
    before = dict(vars(learner))
    spoilt = X.copy()
    spoilt[3, 2] = np.nan
    for samples, labels, message in (
        (spoilt, y, "contains NaN"),
        (X[:, :4], y, "X has 4 features"),
        (X[:0], y[:0], "Found array with 0 sample"),
        (X, y[:-1], "inconsistent numbers of samples"),
        (X, np.arange(300) % 9, "labels are text here and numbers there"),
    ):
        with pytest.raises(ValueError, match=message):
            learner.partial_fit(samples, labels)
        assert vars(learner) == before
    with pytest.raises(ValueError, match="contains NaN"):
        learner.fit(pd.DataFrame(spoilt, columns=list("uvwxyz")), y)
    assert vars(learner) == before
    with pytest.raises(BadInput, match="cannot forget samples of class 'nut': it was never learnt"):
        learner.forget(X[:1], ["nut"])
    many = np.flatnonzero(np.isin(y, ["fig"]))
    with pytest.raises(BadInput, match="cannot remove"):
        learner.forget(np.r_[X[many], X[many]], np.r_[y[many], y[many]])
    assert vars(learner) == before


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (AFLClassifier(ridge=-1.0), r"ridge=-1\.0"),
        (AFLClassifier(ridge="auto"), "ridge='auto'"),
        (AFLClassifier(width=2.5), r"width=2\.5 must be a whole number"),
        (AFLClassifier(width=0), "width=0 must be a whole number >= 1"),
        (AFLClassifier(random_state=None), "random_state=None must be a whole number"),
        (AFLClassifier(mode="exakt"), "unknown mode 'exakt'"),
        (GKEALClassifier(width=None), "width=None must be a whole number"),
        (GKEALClassifier(low=2.0), r"the box \[2\.0, 1\.0\] is empty"),
        (DSALClassifier(width=64, ratio=-1.0), r"ratio=-1\.0"),
        (AIRClassifier(width=64, tau=3.0), r"tau=3\.0 must be a finite number in \[0, 2\]"),
        (AIRClassifier(width=64, memory=100), "form=two_rounds|smaller width"),
        (AEFOCLClassifier(width=64, spread=-1.0), r"spread=-1\.0"),
    ],
    ids=repr,
)
def test_a_parameter_that_cannot_be_is_refused_by_fit(estimator, message, data):
    with pytest.raises(BadInput, match=message):
        estimator.fit(*data)
    with pytest.raises(NotFittedError):
        estimator.predict(data[0])


def test_only_what_was_learnt_alike_is_added(data):
    X, y = data
    learner = AFLClassifier(width=64).fit(X, y)
    for other, message in (
        (ACILClassifier(width=64).fit(X, y), "cannot merge AFLClassifier with ACILClassifier"),
        (AFLClassifier(width=64, random_state=1).fit(X, y), r"expansion=.*seed=0.* but the other .*seed=1"),
        (AFLClassifier(width=64, mode="exact").fit(X, y), "learnt with mode=float64"),
        (AFLClassifier(width=64).fit(X[:, :4], y), "classifiers of 6 and 4 features"),
        (AFLClassifier(width=64).fit(X, np.arange(300) % 3), "labels are text here and numbers there"),
    ):
        with pytest.raises(BadInput, match=message):
            learner + other
    with pytest.raises(NotFittedError):
        learner + AFLClassifier(width=64)
    with pytest.raises(TypeError):
        learner + 3
    with pytest.raises(BadInput, match=r"these samples with expansion=.*call fit to begin again"):
        learner.set_params(width=32).partial_fit(X, y)
    assert learner.partial_fit.__self__ is learner.set_params(width=64).partial_fit(X, y)


def test_what_is_summed_on_another_device_is_the_same(data, device):
    X, y = data
    for estimator in EXACT:
        there = clone(estimator).set_params(device=device).fit(X, y)
        assert same_head(there, clone(estimator).fit(X, y))
        assert np.array_equal(there.predict(X), clone(estimator).fit(X, y).predict(X))
