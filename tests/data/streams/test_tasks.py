"""Streams order samples into tasks."""

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.config.schema import register
from fedlab.data.dataset import Split
from fedlab.data.partition import Dirichlet, Iid
from fedlab.data.streams.blurry import SiBlurry
from fedlab.data.streams.long_tail import LongTailed
from fedlab.data.streams.tasks import ClassIncremental, DomainIncremental, Online, SampleIncremental
from fedlab.errors import BadInput

CONF = Path(__file__).parents[3] / "conf"


def drawn(n, c, seed, domains=("a", "b", "c")):
    rng = np.random.default_rng(seed)
    ids = np.array(domains)[rng.integers(len(domains), size=n)]
    return Split(rng.normal(size=(n, 2)).astype(np.float32), rng.integers(c, size=n), {"domain": ids})


STREAMS = [
    ClassIncremental(5, 5),
    ClassIncremental(4, 0.2, "ascending"),
    SampleIncremental(7),
    SampleIncremental(3, shuffled=False),
    DomainIncremental(),
    Online(8),
    Online(7, ClassIncremental(2)),
    SiBlurry(),
    SiBlurry(4, 0.3, 0.4, stochastic=False),
    SiBlurry(1, 1, 1),
    LongTailed(1, Online(3, SiBlurry(2))),
]


@pytest.mark.parametrize("stream", STREAMS, ids=str)
@settings(max_examples=20)
@given(n=st.integers(1, 200), seed=st.integers(0, 99))
def test_every_row_comes_once_and_the_seed_decides_when(stream, n, seed):
    train, test = drawn(n, 10, seed), drawn(30, 10, seed + 1)
    tasks = stream.tasks(train, test, 10, seed)
    assert sorted(np.concatenate(tasks.rows).tolist()) == list(range(n))
    assert len(tasks) == len(tasks.test)
    again = stream.tasks(train, test, 10, seed)
    assert all(np.array_equal(a, b) for a, b in zip(tasks.rows, again.rows, strict=True))
    assert all(rows.dtype == np.int64 for rows in (*tasks.rows, *tasks.test))
    assert hash(stream) == hash(stream)


@given(c=st.integers(2, 40), base=st.integers(1, 39), phases=st.integers(1, 39), seed=st.integers(0, 99))
def test_classes_come_once_and_what_is_left_over_comes_last(c, base, phases, seed):
    labels = np.arange(c)
    split = Split(np.zeros((c, 1), np.float32), labels)
    if base > c or phases > c - base:
        with pytest.raises(BadInput, match="classes cannot come as"):
            ClassIncremental(phases, base).tasks(split, split, c, seed)
        return
    tasks = ClassIncremental(phases, base).tasks(split, split, c, seed)
    sizes = [len(rows) for rows in tasks.rows]
    assert len(tasks) == phases + 1 and sizes[0] == base and sum(sizes) == c
    assert len(set(sizes[1:-1])) <= 1 and (phases == 1 or 0 <= sizes[-1] - sizes[1] < phases)
    assert all(np.array_equal(a, b) for a, b in zip(tasks.rows, tasks.test, strict=True))


def test_classes_can_come_by_label_and_by_how_many_samples_they_have():
    labels = np.repeat([0, 1, 2, 3], [5, 9, 1, 7])
    split = Split(np.zeros((22, 1), np.float32), labels)
    for order, expected in [("given", [0, 1, 2, 3]), ("descending", [1, 3, 0, 2]), ("ascending", [2, 0, 3, 1])]:
        tasks = ClassIncremental(3, 1, order).tasks(split, split, 4, 5)
        assert [labels[rows[0]] for rows in tasks.rows] == expected


def test_the_datasets_own_order_is_kept_where_nothing_is_shuffled():
    tasks = SampleIncremental(3, shuffled=False).tasks(drawn(10, 2, 0), drawn(5, 2, 1), 2, 0)
    assert [rows.tolist() for rows in tasks.rows] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize("partition", [Iid(), Dirichlet(0.5)], ids=str)
def test_when_a_sample_comes_has_nothing_to_do_with_who_holds_it(partition):
    # A run has one seed: drawn from it alike, a client's samples would all come in one or two phases.
    train = drawn(1000, 4, 0)
    parts = partition.split(train.labels, train.groups, 10, 7)
    phases = SampleIncremental(5).tasks(train, train, 4, 7).rows
    met = np.array([[len(np.intersect1d(part, phase)) for phase in phases] for part in parts if len(part) > 40])
    share = met / met.sum(1, keepdims=True)
    assert len(met) > 3 and np.abs(share - 0.2).max() < 0.2


def test_a_domain_of_the_test_split_alone_is_not_judged():
    tasks = DomainIncremental().tasks(drawn(30, 2, 0, ("a", "c")), drawn(30, 2, 1, ("a", "b", "c")), 2, 0)
    assert len(tasks) == 2 and len(np.concatenate(tasks.test)) < 30


@given(n=st.integers(0, 60), batch=st.integers(1, 70), seed=st.integers(0, 9))
def test_batches_stay_within_the_task_they_are_cut_from(n, batch, seed):
    train, test = drawn(n, 6, seed), drawn(20, 6, seed)
    whole = ClassIncremental(2).tasks(train, test, 6, seed)
    cut = Online(batch, ClassIncremental(2)).tasks(train, test, 6, seed)
    assert max(map(len, cut.rows)) <= batch
    at = 0
    for rows, own in zip(whole.rows, whole.test, strict=True):
        batches = max(1, -(-len(rows) // batch))
        assert sorted(np.concatenate(cut.rows[at : at + batches])) == sorted(rows)
        assert all(np.array_equal(judged, own) for judged in cut.test[at : at + batches])
        at += batches
    assert at == len(cut)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            lambda: ClassIncremental(5, 0),
            r"base=0 must be a finite number > 0: give a share of the classes in \(0, 1\)",
        ),
        (lambda: ClassIncremental(5, float("inf")), "base=inf"),
        (lambda: ClassIncremental(5, "half"), "base='half'"),
        (lambda: ClassIncremental(5, 1.5), "base=1.5 is neither: give a share"),
        (lambda: ClassIncremental(5, 11), "give base in 1..10"),
        (lambda: ClassIncremental(0, 0.5), "phases in 1..5"),
        (lambda: ClassIncremental(-1, 0.5), "phases=-1 must be a whole number >= 0"),
        (lambda: ClassIncremental(6, 0.5), "SampleIncremental for more phases"),
        (lambda: ClassIncremental(5, order="desending"), "did you mean 'descending'"),
        (lambda: SampleIncremental(0), "phases=0 must be a whole number >= 1"),
        (lambda: SampleIncremental(2.5), "phases=2.5 must be a whole number"),
        (lambda: DomainIncremental("vendor"), "vendor"),
        (lambda: Online(0), "batch=0 must be a whole number >= 1"),
        (lambda: LongTailed(0.5), r"rho=0.5 must be a finite number >= 1"),
        (lambda: LongTailed(float("inf")), "rho=inf"),
        (lambda: LongTailed(True), "rho=True"),
        (lambda: LongTailed(places="sorted"), "known are given, shuffled"),
        (lambda: LongTailed(10, ClassIncremental(6, 0.5)), "SampleIncremental for more phases"),
        (lambda: SiBlurry(0), "phases=0 must be a whole number >= 1"),
        (lambda: SiBlurry(disjoint=1.1), r"disjoint=1.1 must be a finite number in \[0, 1\]"),
        (lambda: SiBlurry(blurry=-0.1), "blurry=-0.1 must be a finite number in"),
        (lambda: SiBlurry(blurry=10), "blurry=10 must be a finite number in"),
    ],
)
def test_what_cannot_come_is_refused(build, said):
    with pytest.raises(BadInput, match=said):
        build().tasks(drawn(50, 10, 0), drawn(50, 10, 1), 10, 0)


@pytest.mark.parametrize("stream", [ClassIncremental(), SampleIncremental(), Online(), LongTailed(), SiBlurry()])
def test_a_seed_below_zero_is_refused(stream):
    with pytest.raises(BadInput, match="seed=-1 must be a whole number >= 0"):
        stream.tasks(drawn(50, 10, 0), drawn(50, 10, 1), 10, -1)


CHOICES = {
    "class_incremental": ClassIncremental(),
    "sample_incremental": SampleIncremental(),
    "domain_incremental": DomainIncremental(),
    "online": Online(),
    "long_tailed": LongTailed(stream=ClassIncremental()),
    "si_blurry": SiBlurry(),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_configuration_says_the_defaults_and_another_stream_can_be_chosen_within(name):
    register()

    def chosen(*overrides):
        with initialize_config_dir(str(CONF), version_base=None):
            return instantiate(compose(f"stream/{name}", list(overrides)).stream)

    assert chosen() == CHOICES[name]
    if name in ("online", "long_tailed"):
        assert chosen("stream@stream.stream=si_blurry", "stream.stream.phases=2").stream == SiBlurry(2)


def test_every_stream_has_its_configuration():
    assert {path.stem for path in (CONF / "stream").glob("*.yaml")} - {"none"} == set(CHOICES)


# -- blurry and long-tailed streams ------------------------------------------------------------------------


@given(
    disjoint=st.floats(0, 1),
    blurry=st.floats(0, 1),
    stochastic=st.booleans(),
    phases=st.integers(1, 8),
    seed=st.integers(0, 20),
)
def test_disjoint_classes_never_return_and_few_samples_stray(disjoint, blurry, stochastic, phases, seed):
    train, test = drawn(300, 10, seed), drawn(40, 10, seed + 1)
    tasks = SiBlurry(phases, disjoint, blurry, stochastic).tasks(train, test, 10, seed)
    held = np.array([np.bincount(train.labels[rows], minlength=10) for rows in tasks.rows])
    assert ((held > 0).sum(0) == 1).sum() >= round(10 * disjoint)
    # A class's home is where most of it is, whenever that is the majority; the rest are strays.
    strays = held.sum() - held.max(0).sum()
    assert strays <= round(blurry * (300 - np.sort(held.sum(0))[: round(10 * disjoint)].sum()))
    for rows, own in zip(tasks.rows, tasks.test, strict=True):
        here = np.unique(train.labels[rows])
        assert own.tolist() == np.flatnonzero(np.isin(test.labels, here)).tolist()


def test_an_even_blurry_stream_deals_evenly():
    split = Split(np.zeros((1000, 1), np.float32), np.arange(1000) % 20)
    tasks = SiBlurry(5, 0.5, 0.2, stochastic=False).tasks(split, split, 20, 3)
    assert {len(rows) for rows in tasks.rows} <= set(range(180, 221))
    held = np.array([np.bincount(split.labels[rows], minlength=20) for rows in tasks.rows])
    assert ((held > 25).sum(1) == 4).all()  # two disjoint and two blurry classes are at home in each task
    assert held.sum() - held.max(0).sum() in range(60, 101)  # of 100 that stray, about a fifth stray home


@given(
    counts=st.lists(st.integers(0, 80), min_size=1, max_size=12).filter(any),
    rho=st.floats(1, 1e4),
    places=st.sampled_from(["given", "shuffled"]),
    seed=st.integers(0, 20),
)
def test_a_long_tail_follows_its_formula(counts, rho, places, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    train = Split(np.zeros((len(labels), 1), np.float32), labels)
    tasks = LongTailed(rho, SampleIncremental(3), places).tasks(train, train, len(counts), seed)
    rows = np.concatenate(tasks.rows)
    assert len(set(rows)) == len(rows)
    left = np.bincount(labels[rows], minlength=len(counts))
    held = np.array(counts)
    there = np.flatnonzero(held)
    c = len(there)
    formula = [held.max() * rho ** (-i / max(c - 1, 1)) for i in range(c)]
    assert (left[there] >= 1).all() and (left <= held).all()
    if places == "given":
        expected = [min(held[y], max(1, int(n + 1e-9))) for y, n in zip(there, formula, strict=True)]
        assert left[there].tolist() == expected
    elif len(set(held[there])) == 1:
        assert sorted(left[there]) == sorted(max(1, int(n + 1e-9)) for n in formula)


def test_the_published_long_tail_of_cifar_100():
    labels = np.repeat(np.arange(100), 500)
    left = np.bincount(labels[LongTailed(100).kept(labels, 0)])
    # Cao et al. 2019 and all who use their files: 500 to 5, 10,847 in all.
    assert (left[0], left[99], left.sum()) == (500, 5, 10_847)


def test_the_large_classes_come_first_where_the_tail_is_ordered():
    split = Split(np.zeros((600, 1), np.float32), np.arange(600) % 6)
    for order, direction in (("descending", -1), ("ascending", 1)):
        stream = LongTailed(20, ClassIncremental(5, 1, order), "shuffled")
        sizes = [len(rows) for rows in stream.tasks(split, split, 6, 4).rows]
        assert (np.diff(sizes) * direction > 0).all() and max(sizes) == 20 * min(sizes)


def test_which_class_is_large_has_nothing_to_do_with_when_it_comes():
    split = Split(np.zeros((600, 1), np.float32), np.arange(600) % 6)
    stream = LongTailed(20, ClassIncremental(5, 1), "shuffled")
    first = [len(stream.tasks(split, split, 6, seed).rows[0]) for seed in range(30)]
    assert len(set(first)) == 6
