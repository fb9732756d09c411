import pytest
import torch

from clients.aefocl import AEFOCL
from clients.air import AIR
from fedlab.analytic import DualStream, RandomReLU
from fedlab.analytic.phases import Phases
from fedlab.analytic.universe import over
from fedlab.stats import GramStats, one_hot
from tests.draws import FIXED, same, samples, statistics

COLUMNS = [4, 0, 2]


@pytest.mark.parametrize("fixed", [None, FIXED])
@pytest.mark.parametrize("n", [3, 40])
def test_classes_move_to_their_columns_and_nothing_else_changes(n, fixed):
    x, labels = samples(n, 5)
    wider = over(GramStats.from_batch(x, one_hot(labels, 3), fixed), COLUMNS, 5)
    assert same(wider, GramStats.from_batch(x, one_hot(torch.tensor(COLUMNS)[labels], 5), fixed))


def test_a_stream_of_phases_goes_on_over_more_classes():
    parts = [statistics(30, 8, seed=seed) for seed in (1, 2)]
    later = over(statistics(30, 8, seed=3), [1, 2, 3], 5)
    narrow = DualStream(keep_phases=True).add(parts[0]).add(parts[1])
    wide = DualStream(keep_phases=True).add(over(parts[0], COLUMNS, 5)).add(over(parts[1], COLUMNS, 5))
    assert torch.equal(over(narrow, COLUMNS, 5).add(later).solution().weight, wide.add(later).solution().weight)
    assert over(narrow, COLUMNS, 5).seen == wide.seen
    assert over(DualStream(), COLUMNS, 5).total is None
    assert all(map(same, over(narrow, COLUMNS, 5).phases, wide.phases))


@pytest.mark.parametrize("method", [AIR, AEFOCL])
def test_every_kind_of_statistics_over_more_classes_is_what_would_have_been_observed_over_them(method):
    x, labels = samples(40, 5)
    narrow, wide = (method(c, RandomReLU(16)) for c in (3, 5))
    result = over(narrow.observe(x, labels), COLUMNS, 5)
    assert result.sha256 == wide.observe(x, torch.tensor(COLUMNS)[labels]).sha256


def test_phases_over_more_classes_leave_the_same_head():
    narrow = Phases(DualStream(), statistics(30, 8, seed=1), ()).followed(statistics(30, 8, seed=2))
    wide = over(narrow, COLUMNS, 5)
    assert wide.kept is not None and len(wide.kept) == narrow.num_closed == 1
    assert torch.allclose(wide.closed.solution().weight[:, COLUMNS], narrow.closed.solution().weight)
    assert torch.equal(wide.class_counts[COLUMNS], narrow.class_counts)


def test_what_is_no_statistics_has_no_columns():
    with pytest.raises(TypeError, match="no rule for statistics of type int"):
        over(3, [0], 1)
