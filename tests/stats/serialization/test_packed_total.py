"""Sums of what is packed are the sums of what it stands for, and many parts leave as one after the other."""

import hashlib
from functools import reduce
from operator import sub

import numpy as np
import pytest
import torch

from fedlab.errors import BadInput
from fedlab.stats import ClassMoments, GramStats, PerClass, WithMoments, pack, plain_sums, total_of, unpack
from fedlab.stats.arithmetic.product import difference
from fedlab.stats.arithmetic.triangle import flatten, symmetric
from fedlab.stats.serialization.packed_total import unpack_total
from tests.draws import FIXED, gap, same, samples, statistics

MODES = pytest.mark.parametrize("fixed", [None, FIXED], ids=["float64", "exact"])
D, C = 70, 3  # more than one block of rows


def agree(a, b, fixed):
    assert same(a, b) if fixed else gap(a, b) <= 1e-12


def mixed(fixed, sizes=(200, 3, 0, 150, 69, 1)):
    """Triangles, factors and nothing."""
    return [statistics(n, D, C, seed, fixed) for seed, n in enumerate(sizes)]


@MODES
@pytest.mark.parametrize("sizes", [(200, 3, 0, 150, 69, 1), (200, 150), (3, 1, 0), (0,)], ids=str)
def test_a_total_of_packed_parts_is_the_total_of_the_parts(fixed, sizes):
    parts = mixed(fixed, sizes)
    packed = [pack(part) for part in parts]
    result = unpack_total(packed)
    agree(result, total_of(parts), fixed)
    assert torch.equal(result.gram, result.gram.T)
    for before, part in zip(packed, map(pack, parts), strict=True):  # and no part has changed
        assert all(np.array_equal(before[name], part[name]) for name in before)


def test_other_kinds_are_added_too():
    held = []
    for seed, n in enumerate((9, 40)):
        x, labels = samples(n, 8, C, seed)
        sums = statistics(n, 8, C, seed, FIXED)
        moments = ClassMoments.of(FIXED.encode(x)[0], labels, C, FIXED.scale)
        held.append((PerClass.of_class(statistics(n, 8, 1, seed, FIXED), 1, C), WithMoments(sums, moments)))
    for a, b in zip(*held, strict=True):
        result = unpack_total([pack(a), pack(b)])
        assert type(result) is type(a) and same(plain_sums(result), plain_sums(a + b))


def test_what_cannot_be_added_is_refused():
    one = pack(statistics(200, D, C, 0, FIXED))
    with pytest.raises(BadInput, match="there are no statistics to add"):
        unpack_total([])
    with pytest.raises(BadInput, match="scale"):
        unpack_total([one, pack(statistics(200, D, C, 0))])
    with pytest.raises(BadInput, match="features"):
        unpack_total([one, pack(statistics(200, D + 1, C, 0, FIXED))])
    for spoil, message in ((-1, "on its diagonal: no sum of squares"), (2**62, "passes 2\\^63")):
        bad = {**one, "gram": one["gram"].astype(np.int64)}
        bad["gram"][D] = spoil  # the second entry of the diagonal
        with pytest.raises(BadInput, match=message):
            unpack_total([bad, bad])


@MODES
def test_many_leave_as_one_after_the_other(fixed):
    stay, *gone = mixed(fixed)
    total = total_of([stay, *gone])
    before = total.sha256
    left = total.without(gone)
    agree(left, stay, fixed)
    agree(reduce(sub, gone, total), left, fixed)
    agree(total.without([]), total, fixed)
    assert total.sha256 == before and torch.equal(left.gram, left.gram.T)


def test_parts_that_are_each_in_the_sum_but_not_together_are_refused():
    one, two = statistics(80, D, C, 0, FIXED), statistics(90, D, C, 1, FIXED)
    with pytest.raises(BadInput, match="cannot remove"):
        (one + two).without([one, one, two])
    huge = GramStats(one.cross * 0, one.class_counts * 0, one.scale, matrix=torch.full((D, D), 2**62))
    with pytest.raises(BadInput, match="were never part of it"):  # four of them are 2^64, which int64 takes for 0
        one.without([huge, huge, huge, huge])


@pytest.mark.parametrize("d", [1, 63, 64, 65, 130])
def test_matrices_are_subtracted_and_mirrored_block_by_block(d):
    generator = torch.Generator().manual_seed(d)
    parts = [torch.randint(-99, 99, (d, d), generator=generator) for _ in range(3)]
    total, *gone = [part + part.T for part in parts]
    assert torch.equal(difference(total, gone), total - gone[0] - gone[1])
    assert torch.equal(difference(total, []), total)
    assert np.array_equal(symmetric(flatten(total.numpy()), d), total.numpy())


@MODES
def test_the_digest_is_that_of_the_upper_triangle(fixed):
    one = statistics(200, D, C, 0, fixed)
    upper = torch.triu_indices(D, D)
    said = hashlib.sha256(repr((D, C, one.scale, one.saturated)).encode())
    for part in (one.gram[upper[0], upper[1]], one.cross, one.class_counts):
        said.update(part.contiguous().numpy().tobytes())
    assert one.sha256 == said.hexdigest() == unpack(pack(one)).sha256
