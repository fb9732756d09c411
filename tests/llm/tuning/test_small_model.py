"""The head: its objective, what synthetic texts weigh, classes that nobody has."""

import numpy as np
import pytest
from scipy.optimize import minimize

from fedlab.errors import BadInput
from fedlab.llm.tuning.small_model import Head, scores

RNG = np.random.default_rng(0)
X, S = RNG.normal(size=(12, 3)).astype(np.float32), RNG.normal(size=(20, 3)).astype(np.float32)
Y, T = RNG.integers(0, 3, 12), RNG.integers(0, 3, 20)
NONE = S[:0], T[:0]


def objective(flat: np.ndarray, w: float, g: float) -> float:
    head = flat.reshape(3, 4)

    def loss(x, y):
        z = scores(head, x.astype(float))
        return np.sum(np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y])

    mean = (loss(X, Y) + w * loss(S, T)) / (len(Y) + w * len(T))
    return mean + g / 2 * (head[:, :-1] ** 2).sum()


@pytest.mark.parametrize("w", [0.0, 0.5, 2.0])
def test_the_head_minimises_what_it_says(w):
    head = Head(weight=w, penalties=(0.1,)).fit(X, Y, S, T, 3, 0)
    best = minimize(objective, np.zeros(12), (w, 0.1), tol=1e-12)
    # Biases are not penalised and free up to a constant: the objective is compared, to the solver's tolerance.
    assert objective(head.ravel().astype(float), w, 0.1) == pytest.approx(best.fun, abs=1e-6)


def test_a_weight_of_zero_and_no_text_are_the_same():
    head = Head(weight=0.0, penalties=(0.1,))
    assert (head.fit(X, Y, S, T, 3, 0) == Head(penalties=(0.1,)).fit(X, Y, *NONE, 3, 0)).all()


def test_two_classes_are_two_rows():
    y, t = Y % 2, T % 2
    head = Head(penalties=(0.1,)).fit(X, y, S, t, 2, 0)
    assert head.shape == (2, 4) and np.allclose(head[0], -head[1])
    assert (scores(head, X).argmax(1) == y).mean() >= 0.5


def test_a_class_that_nobody_has_is_never_said_and_texts_of_others_bring_it():
    only = np.zeros(4, np.int64)
    head = Head().fit(X[:4], only, *NONE, 3, 0)
    assert (scores(head, S).argmax(1) == 0).all()
    taught = Head(penalties=(1e-3,)).fit(X[:4], only, S, T, 3, 0)
    assert set(scores(taught, S).argmax(1)) == {0, 1, 2}
    assert not Head().fit(X[:0], Y[:0], *NONE, 3, 0).any()
    partly = Head(penalties=(0.1,)).fit(X, np.where(Y == 2, 0, Y), *NONE, 3, 0)
    assert (scores(partly, S).argmax(1) != 2).all() and np.isfinite(partly).all()


def test_the_penalty_is_chosen_on_held_out_texts_and_by_the_seed():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 40)).astype(np.float32)
    y = rng.integers(0, 2, 60)  # noise: the largest penalty, or one as good, must win
    free, chosen = (Head(penalties=p).fit(x, y, x[:0], y[:0], 2, 0) for p in ((1e-4,), (1e-4, 10.0)))
    assert np.abs(chosen).max() < np.abs(free).max()
    again = Head(penalties=(1e-4, 10.0)).fit(x, y, x[:0], y[:0], 2, 0)
    assert (again == chosen).all()


@pytest.mark.parametrize(
    "wrong", [{"weight": -1.0}, {"penalties": ()}, {"penalties": (0.0,)}, {"folds": 1}, {"weight": float("nan")}]
)
def test_bad_input(wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        Head(**wrong)
