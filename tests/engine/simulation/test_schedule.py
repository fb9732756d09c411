"""Who works for whom: pinned, balanced, longest first, and blocks that do not depend on the workers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlab.engine.simulation.schedule import Queue, calls, chunk_of, homes, weights_of
from fedlab.errors import BadInput


def test_there_are_sixteen_blocks_or_more():
    assert [chunk_of(n, None) for n in (1, 16, 17, 1000, 10_000, 1_000_000)] == [1, 1, 2, 63, 625, 1024]
    assert chunk_of(1000, 5) == 5
    with pytest.raises(BadInput, match="chunk=0 must be a whole number >= 1"):
        chunk_of(10, 0)


def test_equal_clients_are_shared_out_equally():
    home = homes(weights_of(1000, None), 10, 4)
    assert np.bincount(home).tolist() == [25, 25, 25, 25]


def test_the_longest_are_placed_first_so_that_all_end_together():
    sizes = np.array([90, 10, 10, 10, 20, 40])
    home = homes(weights_of(6, sizes), 1, 2)
    assert sizes[home == home[0]].sum() == 90  # alone against all others
    with pytest.raises(BadInput, match="5 sizes for 6 clients"):
        weights_of(6, sizes[:5])


@given(
    k=st.integers(1, 60),
    chunk=st.integers(1, 9),
    workers=st.integers(1, 5),
    by_block=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_message_is_in_one_call_of_its_worker(k, chunk, workers, by_block, seed):
    rng = np.random.default_rng(seed)
    partitions = rng.integers(0, k, 2 * k)  # some are asked twice, some not at all
    places = np.flatnonzero(rng.random(2 * k) < 0.7)
    weights = weights_of(k, rng.integers(0, 50, k))
    home = homes(weights, chunk, workers)
    made = calls(partitions, places, weights, home, chunk, by_block)
    assert sorted(np.concatenate([c.places for c in made] or [[]]).tolist()) == places.tolist()
    for call in made:
        assert (np.diff(call.places) > 0).all() and len(call.places)
        assert set(home[partitions[call.places] // chunk]) == {call.worker}
        if by_block:
            assert len(set(partitions[call.places] // chunk)) == 1
        else:
            assert len(call.places) <= chunk
    if by_block:  # who is in a sum does not depend on the number of workers
        other = calls(partitions, places, weights, homes(weights, chunk, 1), chunk, by_block)
        assert [c.places.tolist() for c in made] == [c.places.tolist() for c in other]


def test_a_queue_gives_the_longest_that_may_start():
    weights = weights_of(6, np.array([1, 9, 5, 99, 2, 3]))
    queue = Queue(calls(np.arange(6), np.arange(6), weights, np.zeros(6, int), 1, by_block=True))
    assert [c.first for c in iter(lambda: queue.pop(before=3), None)] == [1, 2, 0]
    assert len(queue) == 3
    first = queue.pop(before=99)
    assert first is not None and first.first == 3
    queue.push(first)  # its worker died: before all others
    assert queue.pop(before=0) is first
    spare = queue.give_away(before=99)
    assert spare is not None and spare.first == 4 and queue.give_away(before=5) is None
    assert [c.first for c in iter(lambda: queue.pop(before=99), None)] == [5]
    assert queue.give_away(before=99) is None
