import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlab.data.dataset import Dataset, Split, encode, hold_out
from fedlab.errors import BadInput


def table(n=6, d=2, c=2, **changes):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d)).astype(np.float32)
    return Split(**{"inputs": x, "labels": np.arange(n) % c, **changes})


def dataset(train=None, test=None, kind="tabular", classes=("a", "b")):
    # An empty split is falsy: compare with None.
    train, test = table() if train is None else train, table(4) if test is None else test
    return Dataset("toy", kind, train, test, classes)


def test_take_keeps_inputs_labels_and_groups_together():
    split = Split(["a", "b", "c"], np.array([0, 1, 2]), {"domain": np.array(["x", "y", "z"])})
    taken = split.take(np.array([2, 0]))
    assert taken.inputs == ["c", "a"]
    assert taken.labels.tolist() == [2, 0]
    assert taken.groups["domain"].tolist() == ["z", "x"]
    assert len(split.take(np.array([], dtype=np.int64))) == 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Split(np.zeros((3, 1)), np.zeros(2, int)), "3 inputs but 2 labels"),
        (lambda: Split(["a"], np.array([0.5])), "vector of integers"),
        (lambda: Split(["a"], np.array([0]), {"g": np.zeros(2)}), "group 'g' has shape"),
        (lambda: Split(["a", "b"], np.array([0, 1]), {"g": np.array(["x", None])}), "first in row 1"),
        (lambda: dataset(table(0)), "train split is empty"),
        (lambda: dataset(test=table(0)), "test split is empty"),
        (lambda: dataset(kind="sound"), "known are tabular, text, image"),
        (lambda: dataset(kind="text"), "list of str"),
        (lambda: dataset(kind="image"), r"\(n, h, w, 3\) uint8"),
        (lambda: dataset(table(inputs=np.zeros((6, 2)))), r"\(n, d\) float32"),
        (lambda: dataset(test=table(d=3)), r"\(2,\), test samples \(3,\)"),
        (lambda: dataset(table(c=3)), r"2 labels are outside \[0, 2\), first in row 2 \(2\)"),
        (lambda: dataset(test=table(labels=np.array([0, 0, -1, 0]), n=4)), r"first in row 2 \(-1\)"),
        (
            lambda: Dataset("t", "text", Split(["a", None], np.array([0, 0])), table(), ("a",)),
            r"1 of 2 samples are not text, first in row 1 \(NoneType\)",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(build, message):
    with pytest.raises(BadInput, match=message):
        build()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_features_are_counted_and_located(bad):
    x = table().inputs.copy()
    x[3, 1] = x[5, 0] = x[5, 1] = bad
    with pytest.raises(BadInput, match=r"test split: 3 features in 2 rows are NaN .* first in row 3, column 1"):
        dataset(test=table(inputs=x))


def test_the_fingerprint_covers_contents_labels_classes_and_split():
    reference = dataset()
    assert dataset().fingerprint == reference.fingerprint
    x = table().inputs.copy()
    x[0, 0] += 1
    others = [
        dataset(table(inputs=x)),
        dataset(table(labels=np.ones(6, int))),
        dataset(classes=("a", "c")),
        dataset(table(4), table()),
        dataset(table(groups={"g": np.arange(6)})),
    ]
    assert len({reference.fingerprint, *(other.fingerprint for other in others)}) == 6

    def texts(*words):
        split = Split(list(words), np.zeros(len(words), int))
        return Dataset("t", "text", split, split, ("a",)).fingerprint

    assert texts("ab", "c") != texts("a", "bc")


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=200),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
def test_hold_out_splits_every_row_once_and_evenly(labels, fraction, seed):
    strata = np.array(labels)
    train, test = hold_out(strata, fraction, seed)
    assert sorted([*train, *test]) == list(range(len(strata)))
    assert len(test) == min(int(np.ceil(len(strata) * fraction)), len(strata) - 1)
    share = len(test) / len(strata)
    for stratum in set(labels):
        # Taken at even steps of n/m, a run of length r holds its share to within one.
        assert abs((strata[test] == stratum).sum() - share * (strata == stratum).sum()) < 1 + 1e-9


def test_hold_out_follows_its_seed():
    strata = np.arange(100) % 3
    assert np.array_equal(hold_out(strata, 0.2, 0)[1], hold_out(strata, 0.2, 0)[1])
    assert not np.array_equal(hold_out(strata, 0.2, 0)[1], hold_out(strata, 0.2, 1)[1])
    for fraction in (0, 1, -0.1, float("nan")):
        with pytest.raises(BadInput, match=r"test=.* must be a finite number in"):
            hold_out(strata, fraction, 0)


def test_encode_numbers_the_classes_of_all_splits_together():
    (train, test), classes = encode("y", ["b", "c"], ["a", "c"])
    assert (train.tolist(), test.tolist(), classes) == ([1, 2], [0, 2], ("a", "b", "c"))
    [labels], classes = encode("y", np.array([10.0, 9.0, 10.0]))
    assert (labels.tolist(), classes) == ([1, 0, 1], ("9", "10"))
    for values, message in (([1.0, 2.5], "2.5 is not a class"), (["a", None], "first in row 1"), ([np.nan], "missing")):
        with pytest.raises(BadInput, match=message):
            encode("y", values)
