"""Exact statistics as vectors of integers: the vector of a sum is the sum of the vectors."""

import numpy as np
import pytest
import torch
from hypothesis import given

from fedlab.errors import BadInput
from fedlab.stats import ClassWeights, GramStats, NoisyGram, PerClass, one_hot, total_of
from fedlab.stats.serialization.integers import Layout, integers, statistics_of
from tests.draws import FIXED, client_sizes, samples, seeds, statistics

D, C = 5, 3


def held(sizes, seed=0):
    return [statistics(n, D, C, seed + i, FIXED) for i, n in enumerate(sizes)]


@given(sizes=client_sizes, seed=seeds)
def test_the_sum_of_vectors_is_the_vector_of_the_sum(sizes, seed):
    parts = held(sizes, seed)
    vectors = [integers(part, len(parts)) for part in parts]
    total = np.sum([vector.view(np.uint64) for vector in vectors], axis=0, dtype=np.uint64).view(np.int64)
    layout = Layout.of(parts[0])
    assert {len(vector) for vector in vectors} == {layout.length}
    result = statistics_of(total, layout, len(parts))
    assert isinstance(result, GramStats)
    assert result.sha256 == total_of(parts).sha256
    assert torch.equal(result.solve(1.0), total_of(parts).solve(1.0))


@given(sizes=client_sizes, seed=seeds)
def test_sums_that_carry_noise_too(sizes, seed):
    parts = [NoisyGram(part.gram - 7, part.cross + 2, part.scale, 0.1, 0.2) for part in held(sizes, seed)]
    total = np.sum([integers(part, len(parts)) for part in parts], axis=0)
    plain = parts[0]
    for part in parts[1:]:
        plain += part
    assert statistics_of(total, Layout.of(parts[0]), len(parts)).sha256 == plain.sha256


@pytest.mark.parametrize("n", [0, 3, 50])
def test_a_layout_depends_on_no_sample_and_comes_back_from_the_wire(n):
    layout = Layout.of(statistics(n, D, C, n, FIXED))
    assert layout == Layout.of(statistics(0, D, C, 0, FIXED)) == Layout.read(layout.numbers())
    assert layout.length == D * (D + 1) // 2 + D * C + C + 1


def test_an_entry_that_could_pass_the_range_in_the_sum_is_refused():
    stats = statistics(50, D, C, 0, FIXED)
    largest = int(integers(stats, 1).max())
    assert integers(stats, 2**63 // (largest + 1)).max() == largest
    with pytest.raises(BadInput, match=r"could pass 2\^63 in the sum of .* clients"):
        integers(stats, 2**63 // largest)


def test_what_is_no_sum_of_samples_is_refused():
    stats = statistics(50, D, C, 0, FIXED)
    layout, vector = Layout.of(stats), integers(stats, 1)
    garbage = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, layout.length)
    far = (np.where(np.arange(layout.length) == 1, entry, vector) for entry in (2**40, -(2**40), -(2**63)))
    for wrong in (garbage, -vector, *far):
        with pytest.raises(BadInput, match="not that of any samples"):
            statistics_of(wrong, layout, 1)
    with pytest.raises(BadInput, match=f"5 features and 3 classes make {layout.length}"):
        statistics_of(vector[1:], layout, 1)


def test_what_has_no_vector_is_refused():
    x, labels = samples(9, D, C)
    weights = ClassWeights.tempered(torch.bincount(labels, minlength=C).tolist(), 1.0)
    q, _ = FIXED.encode(x)
    weighted = GramStats.from_integers(q, one_hot(labels, C), FIXED.scale, weights=weights)
    per_class = PerClass.of_class(statistics(4, D, 1, 0, FIXED), 0, C)
    for other in (weighted, per_class):
        with pytest.raises(BadInput, match=f"{type(other).__name__} cannot be masked"):
            integers(other, 1)
    with pytest.raises(BadInput, match="float64 cannot be masked, only integers can: say mode=exact"):
        integers(statistics(4, D, C), 1)


@pytest.mark.parametrize(
    "numbers",
    [np.zeros(5), np.zeros(6), np.full(6, np.nan), np.array([0, 0, 3, 1.0, 0, 0]), np.array([9, 5, 3, 1.0, 0, 0])],
)
def test_numbers_that_say_no_layout_are_refused(numbers):
    with pytest.raises(BadInput, match="a layout"):
        Layout.read(numbers)
