import pytest
import torch

from fedlab.stats import DualStream, GramStats, one_hot
from fedlab.stats.universe import over
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
    assert torch.equal(
        over(narrow, COLUMNS, 5).add(later).solution().weight, wide.add(later).solution().weight
    )
    assert over(narrow, COLUMNS, 5).seen == wide.seen
    assert over(DualStream(), COLUMNS, 5).total is None
    assert all(map(same, over(narrow, COLUMNS, 5).phases, wide.phases))


def test_what_is_no_statistics_has_no_columns():
    with pytest.raises(TypeError, match="no rule for statistics of type int"):
        over(3, [0], 1)
