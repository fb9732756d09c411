import pytest
import torch

from fedlab.analytic import DualStream
from fedlab.analytic.phases import Phases
from fedlab.errors import BadInput
from tests.draws import FIXED, same, statistics

PARTS = [statistics(20, 8, seed=seed, fixed=FIXED) for seed in range(5)]
"""Statistics of four features twice, three classes."""


def phases(*parts, kept=True, **settings):
    state = Phases(DualStream(**settings), parts[0], () if kept else None)
    for part in parts[1:]:
        state = state.followed(part)
    return state


def head(state):
    return state.closed.solution().weight


def test_the_last_phase_grows_until_another_begins():
    grown = phases(PARTS[0], kept=False).joined(PARTS[1]).followed(PARTS[2]).joined(PARTS[3])
    expected = DualStream().add(PARTS[0] + PARTS[1]).add(PARTS[2] + PARTS[3])
    assert torch.equal(head(grown), expected.solution().weight)
    assert torch.equal(grown.class_counts, sum(part.class_counts for part in PARTS[:4]))
    assert grown.num_closed == 1 and grown.kept is None


def test_what_is_forgotten_was_never_in_its_phase_and_phases_keep_their_places():
    state = phases(PARTS[0] + PARTS[1], PARTS[2], PARTS[3])
    assert torch.equal(head(state.without(PARTS[1], 0)), head(phases(PARTS[0], PARTS[2], PARTS[3])))
    empty = state.without(PARTS[2], 1)
    assert empty.num_closed == 2 and torch.equal(head(empty), head(phases(PARTS[0] + PARTS[1], PARTS[3])))
    assert torch.equal(head(empty.without(PARTS[3], 2)), head(phases(PARTS[0] + PARTS[1])))


def test_states_are_added_phase_by_phase_and_one_may_be_behind():
    ahead, behind = phases(*PARTS[:3]), phases(*PARTS[3:])
    both = head(phases(PARTS[0] + PARTS[3], PARTS[1] + PARTS[4], PARTS[2]))
    assert torch.equal(head(ahead + behind), both) and torch.equal(head(behind + ahead), both)
    one = phases(PARTS[0], kept=False) + phases(PARTS[1], kept=False)
    assert same(one.last, PARTS[0] + PARTS[1])


def test_what_the_state_no_longer_knows_is_refused():
    state = phases(*PARTS[:2], kept=False)
    for call, message in (
        (lambda: state.without(PARTS[0], 0), "phase 0 is closed and was not kept"),
        (lambda: state.without(PARTS[0], 2), r"phase 2 lies outside 0\.\.1"),
        (lambda: state.without(PARTS[0] + PARTS[1], 1), "cannot remove"),
        (lambda: state + phases(PARTS[2]), "cannot merge streams of 2 and 1 phases that were not kept"),
        (lambda: state + phases(PARTS[2], ratio=1.0), r"ratio=0\.6, others ratio=1\.0"),
    ):
        with pytest.raises(BadInput, match=message):
            call()
