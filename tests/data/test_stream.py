"""Streams order samples into tasks; a course says which client meets what at which step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.data.course import Course, course
from fedlab.data.dataset import Dataset, Split
from fedlab.data.federation import Federation, federate
from fedlab.data.partition import Dirichlet
from fedlab.data.sources import Digits
from fedlab.data.stream import ClassIncremental, DomainIncremental, SampleIncremental, Tasks
from fedlab.errors import BadInput


def drawn(n, c, seed, domains=("a", "b", "c")):
    rng = np.random.default_rng(seed)
    ids = np.array(domains)[rng.integers(len(domains), size=n)]
    return Split(rng.normal(size=(n, 2)).astype(np.float32), rng.integers(c, size=n), {"domain": ids})


@pytest.fixture(scope="module")
def digits():
    return federate(Digits(), Dirichlet(0.1), 20, 0)


STREAMS = [ClassIncremental(5, 5), ClassIncremental(4, 0.2), SampleIncremental(7), DomainIncremental()]


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


def test_another_seed_brings_the_classes_in_another_order(digits):
    one, two = (course(digits, ClassIncremental(5), seed) for seed in (0, 1))
    assert set(one.exposed(0)) != set(two.exposed(0))


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (ClassIncremental(5, 0), "give base in 1..10"),
        (ClassIncremental(5, 1.5), "neither a share in"),
        (ClassIncremental(0, 0.5), "phases in 1..5"),
        (ClassIncremental(6, 0.5), "SampleIncremental for more phases"),
        (SampleIncremental(0), "phases=0 must be at least 1"),
        (DomainIncremental("vendor"), "vendor"),
    ],
)
def test_what_cannot_come_is_refused(stream, said):
    with pytest.raises(BadInput, match=said):
        stream.tasks(drawn(50, 10, 0), drawn(50, 10, 1), 10, 0)


# -- courses -----------------------------------------------------------------------------------------------


def test_the_clients_of_a_step_meet_the_task_between_them(digits):
    way = course(digits, ClassIncremental(5), 0)
    for step in range(len(way)):
        met = [way.met(k, step) for k in range(20)]
        assert sorted(np.concatenate(met)) == sorted(way.tasks.rows[step])
        assert all(np.isin(rows, digits.parts[k]).all() for k, rows in enumerate(met))
    assert sorted(way.seen(len(way) - 1)) == list(range(len(digits.dataset.train)))


def test_a_model_is_judged_on_what_is_exposed(digits):
    way, labels = course(digits, ClassIncremental(5), 0), digits.dataset.test.labels
    assert [len(way.exposed(step)) for step in range(6)] == [5, 6, 7, 8, 9, 10]
    for step in range(6):
        assert set(labels[way.examined(step)]) == set(way.exposed(step))
    assert len(way.examined(5)) == len(labels)


def test_a_class_that_only_the_test_split_has_is_never_judged():
    train = Split(np.zeros((4, 1), np.float32), np.array([0, 0, 1, 1]))
    test = Split(np.zeros((3, 1), np.float32), np.array([0, 1, 2]))
    dataset = Dataset("d", "tabular", train, test, ("a", "b", "c"))
    way = course(Federation(dataset, (np.arange(4),)), ClassIncremental(2, 1), 0)
    assert len(way) == 3 and way.exposed(2).tolist() == [0, 1] and way.examined(2).tolist() == [0, 1]


def test_who_lags_meets_later_what_the_others_met(digits):
    tasks = SampleIncremental(3).tasks(digits.dataset.train, digits.dataset.test, 10, 0)
    # Client 0 joins a step late, client 1 is away in the second step and brings both tasks in the third.
    calendar = [
        [(), (0,)] + [(0,)] * 18,
        [(0,), ()] + [(1,)] * 18,
        [(1,), (1, 2)] + [(2,)] * 18,
        [(2,)] + [()] * 19,
    ]
    way = Course(digits, tasks, calendar)
    assert len(way.met(0, 0)) == 0 and np.array_equal(way.met(0, 1), Course(digits, tasks).met(0, 0))
    both = np.concatenate([Course(digits, tasks).met(1, task) for task in (1, 2)])
    assert np.array_equal(way.met(1, 2), both)
    assert len(way) == 4 and sorted(way.seen(3)) == sorted(np.concatenate(tasks.rows))


@pytest.mark.parametrize("memory", [0, 1, 7, 30, None])
def test_a_memory_keeps_classes_even_and_never_more_than_it_holds(digits, memory):
    way = course(digits, SampleIncremental(4), 0)
    labels = digits.dataset.train.labels
    for client in range(20):
        before = np.concatenate([way.met(client, step) for step in range(3)])
        kept = way.remembered(client, 3, memory)
        assert set(kept) <= set(before) and len(set(kept)) == len(kept)
        assert len(kept) == (len(before) if memory is None else min(memory, len(before)))
        counts, held = np.bincount(labels[kept], minlength=10), np.bincount(labels[before], minlength=10)
        short = counts < held  # of these it could have kept more
        assert not short.any() or counts.max() - counts[short].min() <= 1


def test_a_memory_can_be_kept_online(digits):
    # What is in the buffer now was in it before, or is new: nothing that was dropped comes back.
    way = course(digits, SampleIncremental(6), 0)
    for client in range(20):
        for step in range(1, 6):
            now, before = way.remembered(client, step, 8), way.remembered(client, step - 1, 8)
            assert set(now) <= set(before) | set(way.met(client, step - 1))


def test_a_task_without_samples_is_a_step_like_any_other(digits):
    nothing = np.zeros(0, dtype=np.int64)
    way = Course(digits, Tasks((nothing, np.arange(50)), (nothing, np.arange(9))))
    assert len(way.met(3, 0)) == 0 and len(way.exposed(0)) == 0 and len(way.examined(0)) == 0
    assert len(way.examined(1)) == np.isin(digits.dataset.test.labels[:9], way.exposed(1)).sum()
