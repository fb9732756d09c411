import pytest
import torch

from fedlab.errors import BadInput
from fedlab.stats import GramStats, one_hot
from fedlab.stats.arithmetic.samples import check_features, check_labels, check_one_hot


def test_one_hot_has_a_single_one_per_row(device):
    y = one_hot(torch.tensor([2, 0, 2], device=device), 3)
    assert y.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert y.dtype == torch.float64 and y.device.type == device
    assert one_hot(torch.tensor([], dtype=torch.int64), 3).shape == (0, 3)
    assert one_hot(torch.tensor([1], dtype=torch.uint8), 3).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(("labels", "named"), [([0, 3], "3"), ([-1, 0], "-1"), ([-2, 9], "-2")])
def test_a_label_outside_the_classes_is_named(labels, named):
    with pytest.raises(BadInput, match=rf"label {named} lies outside 0\.\.2: raise num_classes"):
        one_hot(torch.tensor(labels), 3)


def test_labels_are_a_vector_of_whole_numbers():
    with pytest.raises(BadInput, match="float32"):
        check_labels(torch.tensor([0.5, 1.0]), 3)
    with pytest.raises(BadInput, match=r"shape \(2, 1\)"):
        check_labels(torch.tensor([[0], [1]]), 3)
    with pytest.raises(BadInput, match=r"shape \(2,\): expected \(3,\)"):
        check_labels(torch.tensor([0, 1]), 3, n=3)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_the_first_entry_that_is_not_finite_is_named(poison):
    x = torch.zeros(4, 3)
    x[2, 1] = x[3, 0] = poison
    with pytest.raises(BadInput, match="2 NaN or infinite of 12 entries, the first in row 2, column 1"):
        check_features(x)
    with pytest.raises(BadInput, match="row 2, column 1"):
        GramStats.from_batch(x, one_hot(torch.zeros(4, dtype=torch.int64), 2))


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (5, 0)])
def test_features_are_a_matrix_with_columns(shape):
    with pytest.raises(BadInput, match="features have shape"):
        check_features(torch.zeros(shape))


@pytest.mark.parametrize("row", [[0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [2.0, -1.0], [float("nan"), 1.0]])
def test_a_row_that_is_not_one_hot_is_counted_and_named(row):
    y = torch.tensor([[1.0, 0.0], row, [0.0, 1.0]])
    with pytest.raises(BadInput, match="not one-hot in 1 of 3 rows, the first 1"):
        check_one_hot(y, 3)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (3, 0)])
def test_targets_have_a_row_per_sample_and_a_column_per_class(shape):
    with pytest.raises(BadInput, match=r"expected \(3, c\)"):
        check_one_hot(torch.zeros(shape), 3)
