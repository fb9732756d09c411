"""A client stream says which client meets what at which step; availability, who is there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlab.data.dataset import Dataset, Split
from fedlab.data.federation import Federation, federate
from fedlab.data.partition import Dirichlet
from fedlab.data.sources.catalogue import Digits
from fedlab.data.streams.availability import Availability
from fedlab.data.streams.client_stream import ClientStream, client_stream
from fedlab.data.streams.tasks import ClassIncremental, SampleIncremental, Tasks
from fedlab.errors import BadInput


@pytest.fixture(scope="module")
def digits():
    return federate(Digits(), Dirichlet(0.1), 20, 0)


def test_another_seed_brings_the_classes_in_another_order(digits):
    one, two = (client_stream(digits, ClassIncremental(5), seed) for seed in (0, 1))
    assert set(one.exposed[0]) != set(two.exposed[0])


def test_the_clients_of_a_step_meet_the_task_between_them(digits):
    way = client_stream(digits, ClassIncremental(5), 0)
    for step in range(len(way)):
        met = [way.met(k, step) for k in range(20)]
        assert sorted(np.concatenate(met)) == sorted(way.tasks.rows[step])
        assert all(np.isin(rows, digits.parts[k]).all() for k, rows in enumerate(met))
    assert sorted(way.seen(len(way) - 1)) == list(range(len(digits.dataset.train)))


def test_a_model_is_judged_on_what_is_exposed(digits):
    way, labels = client_stream(digits, ClassIncremental(5), 0), digits.dataset.test.labels
    assert [len(way.exposed[step]) for step in range(6)] == [5, 6, 7, 8, 9, 10]
    for step in range(6):
        assert set(labels[way.evaluated_rows(step)]) == set(way.exposed[step])
    assert len(way.evaluated_rows(5)) == len(labels)


def test_a_class_that_only_the_test_split_has_is_never_judged():
    train = Split(np.zeros((4, 1), np.float32), np.array([0, 0, 1, 1]))
    test = Split(np.zeros((3, 1), np.float32), np.array([0, 1, 2]))
    dataset = Dataset("d", "tabular", train, test, ("a", "b", "c"))
    way = client_stream(Federation(dataset, (np.arange(4),)), ClassIncremental(2, 1), 0)
    assert len(way) == 3 and way.exposed[2].tolist() == [0, 1] and way.evaluated_rows(2).tolist() == [0, 1]


def test_who_lags_meets_later_what_the_others_met(digits):
    tasks = SampleIncremental(3).tasks(digits.dataset.train, digits.dataset.test, 10, 0)
    # Client 0 joins a step late, client 1 is away in the second step and brings both tasks in the third.
    calendar = [[(), (0,)] + [(0,)] * 18, [(0,), ()] + [(1,)] * 18, [(1,), (1, 2)] + [(2,)] * 18, [(2,)] + [()] * 19]
    way = ClientStream(digits, tasks, calendar)
    assert len(way.met(0, 0)) == 0 and np.array_equal(way.met(0, 1), ClientStream(digits, tasks).met(0, 0))
    both = np.concatenate([ClientStream(digits, tasks).met(1, task) for task in (1, 2)])
    assert np.array_equal(way.met(1, 2), both)
    assert len(way) == 4 and sorted(way.seen(3)) == sorted(np.concatenate(tasks.rows))


@pytest.mark.parametrize("memory", [0, 1, 7, 30, None])
def test_a_memory_keeps_classes_even_and_never_more_than_it_holds(digits, memory):
    way = client_stream(digits, SampleIncremental(4), 0)
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
    way = client_stream(digits, SampleIncremental(6), 0)
    for client in range(20):
        for step in range(1, 6):
            now, before = way.remembered(client, step, 8), way.remembered(client, step - 1, 8)
            assert set(now) <= set(before) | set(way.met(client, step - 1))


def test_a_task_without_samples_is_a_step_like_any_other(digits):
    nothing = np.zeros(0, dtype=np.int64)
    way = ClientStream(digits, Tasks((nothing, np.arange(50)), (nothing, np.arange(9))))
    assert len(way.met(3, 0)) == 0 and len(way.exposed[0]) == 0 and len(way.evaluated_rows(0)) == 0
    assert len(way.evaluated_rows(1)) == np.isin(digits.dataset.test.labels[:9], way.exposed[1]).sum()


# -- availability ------------------------------------------------------------------------------------------


@given(
    clients=st.integers(1, 30),
    tasks=st.integers(1, 12),
    lag=st.integers(0, 5),
    late=st.floats(0, 1),
    away=st.floats(0, 1),
    spell=st.integers(1, 20),
    seed=st.integers(0, 20),
)
def test_whoever_was_missing_each_client_meets_every_task_once_and_in_order(
    clients, tasks, lag, late, away, spell, seed
):
    availability = Availability(lag, late, away, spell)
    calendar = availability.calendar(clients, tasks, seed)
    assert len(calendar) == tasks + lag and {len(day) for day in calendar} == {clients}
    for client in range(clients):
        assert [task for day in calendar for task in day[client]] == list(range(tasks))
        assert all(task <= step for step, day in enumerate(calendar) for task in day[client])
    assert calendar == availability.calendar(clients, tasks, seed)
    if (lag, round(late * clients), round(away * clients)) == (0, 0, 0):
        assert calendar == tuple(((task,),) * clients for task in range(tasks))


def test_who_lags_is_behind_who_is_late_starts_empty_who_was_away_catches_up():
    behind = Availability(lag=3).calendar(200, 5, 0)
    assert set(behind[0]) == {(0,), ()}
    assert len({tuple(day[k] for day in behind) for k in range(200)}) == 4  # 0, 1, 2, 3 tasks behind
    late = Availability(late=0.3).calendar(10, 6, 0)
    assert sum(not met for met in late[0]) == 3
    away = Availability(away=1, spell=10).calendar(50, 12, 0)
    # Somebody who left early returns after 10 steps with all that came meanwhile.
    assert max(len(met) for day in away for met in day) == 11


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Availability(lag=-1), "lag=-1 must be a whole number >= 0"),
        (lambda: Availability(late=1.5), r"late=1.5 must be a finite number in \[0, 1\]"),
        (lambda: Availability(away="some"), "away='some' must be a finite number in"),
        (lambda: Availability(spell=0), "spell=0 must be a whole number >= 1"),
        (lambda: Availability().calendar(0, 5, 0), "clients=0 must be a whole number >= 1"),
        (lambda: Availability().calendar(5, 0, 0), "tasks=0 must be a whole number >= 1"),
        (lambda: Availability().calendar(5, 5, -1), "seed=-1 must be a whole number >= 0"),
    ],
)
def test_an_availability_out_of_range_is_refused(build, said):
    with pytest.raises(BadInput, match=said):
        build()


def test_a_stream_of_stragglers_ends_where_one_in_step_ends(digits):
    stream, availability = ClassIncremental(5), Availability(lag=2, late=0.5, away=0.5, spell=3)
    way, plain = client_stream(digits, stream, 0, availability), client_stream(digits, stream, 0)
    assert len(way) == 8 and len(plain) == 6
    assert sorted(way.seen(7)) == sorted(plain.seen(5)) == list(range(len(digits.dataset.train)))
    assert len(way.met(0, 7)) + sum(len(way.met(0, step)) for step in range(7)) == len(digits.parts[0])
    assert np.array_equal(way.evaluated_rows(7), plain.evaluated_rows(5))
