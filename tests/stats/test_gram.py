import gc
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from fedlab.analytic import RandomReLU
from fedlab.analytic.universe import over
from fedlab.errors import BadInput
from fedlab.stats import FixedPoint, GramStats, GramSum, one_hot, pack, total_of, unpack
from fedlab.stats.arithmetic.product import gram_product, recoverable
from tests.draws import FIXED, client_sizes, gap, same, samples, seeds, statistics

MODES = pytest.mark.parametrize("fixed", [None, FIXED], ids=["float64", "exact"])
# Sums of at most 72 products below 1 differ by a few eps = 2e-16 between orders.
CLOSE = 1e-12
D, C = 5, 3


def clients_of(sizes, seed, fixed):
    """Every client's statistics, and those of their union, of the same samples."""
    x, labels = samples(sum(sizes), D, C, seed)
    y = one_hot(labels, C)
    parts = [GramStats.from_batch(a, b, fixed) for a, b in zip(x.split(sizes), y.split(sizes), strict=True)]
    return parts, GramStats.from_batch(x, y, fixed)


def agree(a, b):
    return same(a, b) if a.scale else gap(a, b) <= CLOSE


# -- the algebra -------------------------------------------------------------------------------------------


@MODES
@given(sizes=client_sizes, seed=seeds, data=st.data())
def test_the_sum_is_the_union_in_any_order_and_grouping(fixed, sizes, seed, data):
    parts, union = clients_of(sizes, seed, fixed)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert agree(total, union)
    assert agree(total_of(data.draw(st.permutations(parts))), union)
    cut = data.draw(st.integers(0, len(parts) - 1))
    left, right = parts[: cut + 1], parts[cut + 1 :] or [GramStats.zeros(D, C, union.scale)]
    assert agree(total_of(left) + total_of(right), union)


@MODES
@given(seed=seeds, sizes=st.tuples(*[st.integers(0, 9)] * 3))
def test_associative_commutative_and_neutral(fixed, seed, sizes):
    (a, b, c), _ = clients_of(list(sizes), seed, fixed)
    assert agree((a + b) + c, a + (b + c))
    assert agree(a + b, b + a)
    assert agree(a + GramStats.zeros(D, C, a.scale), a)


@MODES
@given(seed=seeds, n=st.integers(0, 15), m=st.integers(0, 15))
def test_subtraction_takes_back_what_was_added(fixed, seed, n, m):
    (a, b), _ = clients_of([n, m], seed, fixed)
    assert agree((a + b) - b, a)
    assert agree((a + b) - a - b, GramStats.zeros(D, C, a.scale))


@MODES
@given(seed=seeds, n=st.integers(1, 30), batch=st.integers(1, 30))
def test_batches_do_not_matter(fixed, seed, n, batch):
    x, labels = samples(n, D, C, seed)
    y = one_hot(labels, C)
    stream = zip(x.split(batch), y.split(batch), strict=True)
    assert agree(total_of(GramStats.from_batch(x, y, fixed) for x, y in stream), GramStats.from_batch(x, y, fixed))


@MODES
def test_the_sums_are_what_they_are_named(fixed, device):
    x, labels = samples(9, D, C, device=device)
    y = one_hot(labels, C)
    stats = GramStats.from_batch(x, y, fixed)
    q = x if fixed is None else fixed.encode(x)[0]
    assert torch.allclose(stats.gram.to(q.dtype), q.T @ q, rtol=0, atol=1e-12)
    assert torch.allclose(stats.cross.to(q.dtype), q.T @ y, rtol=0, atol=1e-12)
    assert stats.class_counts.tolist() == y.sum(0).tolist() and stats.count == 9
    assert stats.gram.dtype == (torch.float64 if fixed is None else torch.int64)


@given(n=st.integers(0, 8), seed=seeds, bits=st.integers(2, 20))
def test_exact_sums_are_those_of_python_integers(n, seed, bits):
    fixed = FixedPoint(1.0, bits)
    x, labels = samples(n, D, C, seed)
    stats = GramStats.from_batch(x, one_hot(labels, C), fixed)
    # Fractions: the float x times the float scale is rounded once, half to even, as Python rounds.
    q = [[round(float(v) * fixed.scale) for v in row] for row in x]
    gram = [[sum(row[i] * row[j] for row in q) for j in range(D)] for i in range(D)]
    cross = [
        [sum(row[i] for row, label in zip(q, labels, strict=True) if label == c) for c in range(C)] for i in range(D)
    ]
    assert stats.gram.tolist() == gram and stats.cross.tolist() == cross


def test_exact_sums_beyond_2_to_53_are_those_of_python_integers():
    # 20 bits: one square is up to 2^38, so 2^15 rows pass 2^53 and must be summed in chunks.
    n, levels = 2**16, FixedPoint(1.0, 20).levels
    q = torch.full((n, 2), float(levels), dtype=torch.float64)
    q[::3, 1] = -levels + 1
    signed = (n - len(q[::3])) * levels**2 + len(q[::3]) * levels * (1 - levels)
    stats = gram_product(q, exact=True)
    assert n * levels**2 > 2**53
    assert int(stats[0, 0]) == n * levels**2 and int(stats[0, 1]) == int(stats[1, 0]) == signed


def test_digits_have_one_digest_for_any_number_of_clients(device):
    digits = load_digits()
    x = torch.from_numpy(digits.data / 16).to(device)
    y = one_hot(torch.from_numpy(digits.target), 10).to(device)
    q, saturated = FIXED.encode(x)
    h, fixed, clipped = RandomReLU(width=256).integers(q, FIXED)
    digests, heads = set(), set()
    for clients in (1, 7, 100, 1000):
        shuffled = torch.randperm(len(h), generator=torch.Generator().manual_seed(clients)).to(device)
        parts = shuffled.tensor_split(clients)
        total = total_of(GramStats.from_integers(h[rows], y[rows], fixed.scale) for rows in parts)
        assert saturated + clipped + total.saturated == 0
        digests.add(total.sha256)
        heads.add(total.solve(1.0).numpy().tobytes())
    assert len(digests) == len(heads) == 1


# -- reading and changing ----------------------------------------------------------------------------------


@MODES
def test_the_digest_tells_statistics_apart(fixed):
    a = statistics(9, D, C, 0, fixed)
    assert a.sha256 == statistics(9, D, C, 0, fixed).sha256 != statistics(9, D, C, 1, fixed).sha256
    assert a.sha256 != over(a, range(C), C + 1).sha256
    assert a.sha256 != replace(a, saturated=a.saturated + 1).sha256


@MODES
def test_a_wider_universe_has_zero_columns_and_the_same_head(fixed):
    narrow = statistics(20, D, C, 0, fixed)
    wide = over(narrow, range(C), C + 2)
    assert wide.num_classes == C + 2 and wide.class_counts.tolist() == [*narrow.class_counts.tolist(), 0, 0]
    assert torch.equal(wide.cross[:, :C], narrow.cross) and not wide.cross[:, C:].any()
    assert torch.equal(wide.gram, narrow.gram)
    assert torch.allclose(wide.solve(0.5)[:, :C], narrow.solve(0.5), rtol=0, atol=1e-10)  # as float64 promises
    assert not wide.solve(0.5)[:, C:].any()
    with pytest.raises(BadInput, match="cannot narrow 5 classes to 3"):
        over(wide, range(C + 2), C)


@MODES
@pytest.mark.parametrize("n", [3, 9])
def test_statistics_do_not_follow_the_callers_buffer(fixed, n):
    x, labels = samples(n, D, C)
    y = one_hot(labels, C)
    kept = GramStats.from_batch(x, y, fixed)
    total = GramSum()
    total.add(kept)
    x.fill_(7)
    y.zero_()
    assert same(kept, statistics(n, D, C, 0, fixed))
    before = total.result()
    total.add(kept)
    assert agree(before, kept) and agree(total.result(), kept + kept)


def test_saturated_entries_are_counted_through_sums_and_differences():
    y = one_hot(torch.tensor([0, 1]), 2)
    a = GramStats.from_batch(torch.tensor([[0.0, 2.0], [-3.0, 1.0]]), y, FIXED)
    b = GramStats.from_batch(torch.tensor([[0.5, 1.5], [0.1, 1.0]]), y, FIXED)
    assert (a.saturated, b.saturated, (a + b).saturated, (a + b - b).saturated) == (2, 1, 3, 2)
    assert total_of([a, b]).saturated == 3
    with pytest.raises(BadInput, match="cannot remove 2 saturated entries from 1"):
        _ = b - a


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: statistics(4, D + 1, C), "5 features with statistics over 6"),
        (lambda: statistics(4, D, C + 1), "3 classes with statistics over 4"),
        (lambda: statistics(4, D, C, fixed=FIXED), "scale None with scale 2047"),
    ],
    ids=["width", "classes", "scale"],
)
def test_statistics_that_do_not_fit_are_refused(other, message):
    mine = statistics(4, D, C)
    total = GramSum()
    total.add(mine)
    for combine in (lambda a, b: a + b, lambda a, b: a - b, lambda _, b: total.add(b)):
        with pytest.raises(BadInput, match=message):
            combine(mine, other())
    assert same(total.result(), mine)


@MODES
def test_what_was_never_added_cannot_be_removed(fixed):
    x, labels = samples(6, D, C)
    y = one_hot(labels, C)
    a, b = GramStats.from_batch(x[:2], y[:2], fixed), GramStats.from_batch(x[2:], y[2:], fixed)
    with pytest.raises(BadInput, match=r"cannot remove \d samples of class \d from \d"):
        _ = a - b


def test_exact_statistics_notice_a_stranger_of_the_same_size():
    labels = torch.tensor([0, 1])
    a = GramStats.from_batch(torch.tensor([[0.1, 0.2], [0.3, 0.4]]), one_hot(labels, 2), FIXED)
    b = GramStats.from_batch(torch.tensor([[0.4, 0.1], [0.2, 0.3]]), one_hot(labels, 2), FIXED)
    for stranger in (b, GramStats.from_batch(-torch.tensor([[0.1, 0.2], [0.3, 0.4]]), one_hot(labels, 2), FIXED)):
        with pytest.raises(BadInput, match="never part of it"):
            _ = a - stranger


@MODES
def test_nothing_remains_of_nothing(fixed):
    everyone = [statistics(7, D, C, seed, fixed) for seed in range(20)]
    left = total_of(everyone)
    for client in everyone:
        left = left - client
    # In float64 the last difference would be rounding noise of rank d, and its head of order 1.
    assert same(left, GramStats.zeros(D, C, left.scale))
    assert not left.solve(0.0).any()
    assert same(unpack(pack(left)), left)


def test_a_class_whose_last_holder_leaves_has_a_zero_column():
    x, _ = samples(20, D)
    holder = GramStats.from_batch(x[:10] * 1e3, one_hot(torch.full((10,), 2), C))
    others = GramStats.from_batch(x[10:], one_hot(torch.arange(10) % 2, C))
    left = others + holder - holder
    assert not left.cross[:, 2].any() and left.num_classes == C
    assert 2 not in pack(left)["classes"]


def test_nothing_to_add():
    with pytest.raises(BadInput, match="no statistics to add"):
        total_of([])
    assert same(total_of([GramStats.zeros(D, C)] * 3), GramStats.zeros(D, C))


def test_sums_past_int64_are_refused_and_the_total_stays():
    huge = GramStats.zeros(2, 1, scale=1.0)
    huge = replace(huge, rows=None, matrix=torch.full((2, 2), 2**62))
    total = GramSum()
    total.add(huge)
    for add in (lambda: huge + huge, lambda: total.add(huge)):
        with pytest.raises(BadInput, match=r"2\^63: lower bits"):
            add()
    assert same(total.result(), huge)


# -- the running total -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["first", "while rows wait", "after a product"])
def test_a_refused_client_leaves_the_total_as_it_was(where):
    good = [statistics(2, D, C, seed, FIXED) for seed in range(2 if where == "while rows wait" else 20)]
    total = GramSum()
    if where != "first":
        for part in good:
            total.add(part)
    before = None if where == "first" else total.result()
    for entry in (1e10 + 0.3, 1e30, float("inf"), float("nan")):  # far beyond what a factor can carry
        torn = replace(good[0], rows=torch.full((4, D), entry, dtype=torch.float64))
        with pytest.raises(BadInput, match="not integers"):
            total.add(torn)
    if before is not None:
        assert same(total.result(), before)
    total.add(good[0])
    assert same(total.result(), good[0] if before is None else before + good[0])


@MODES
@pytest.mark.parametrize("size", [0, 1, 20])
def test_a_thousand_clients_leave_at_most_2d_rows_waiting(fixed, size):
    d, alive = 16, []
    total = GramSum()
    for number in range(1000):
        total.add(statistics(size, d, C, number, fixed))
        assert sum(map(len, total._waiting)) == total._num_waiting <= 2 * d
        assert len(total._waiting) <= 2 * d
        if number in (100, 999):
            alive.append(sum(type(thing) is GramStats for thing in gc.get_objects()))
    assert alive[0] == alive[1]
    assert total.result().count == 1000 * size


def test_the_running_total_can_be_read_at_any_time():
    parts = [statistics(n, D, C, n, FIXED) for n in (0, 2, 1, 9, 0, 3, 4, 2)]
    total, union = GramSum(), GramStats.zeros(D, C, FIXED.scale)
    for part in parts:
        total.add(part)
        union = union + part
        assert same(total.result(), union)


@pytest.mark.parametrize("bits", [12, 16, 20])
def test_sums_of_factors_are_exact_for_every_word_length(bits):
    # Factors are not integers: however many are stacked, their product must round to the right ones.
    fixed, d = FixedPoint(1.0, bits), 48
    parts = [statistics(n, d, C, 100 + n, fixed) for n in (1, 2, 7, 11, 20, 13, 3, 48, 9, 16)]
    received = [unpack(pack(part)) for part in parts]
    assert any(part.rows is not None and not torch.equal(part.rows, part.rows.round()) for part in received)
    assert all(same(a, b) for a, b in zip(received, parts, strict=True))
    assert same(total_of(received), total_of(parts))
    by_pairs = received[0]
    for part in received[1:]:
        by_pairs = by_pairs + part
    assert same(by_pairs, total_of(parts))


def test_recoverable_is_the_limit_of_a_factor():
    assert recoverable(1000, 1000 * 2047.0**2) and not recoverable(1000, 1000 * 524287.0**2)
    assert not recoverable(1, float("inf")) and not recoverable(1, float("nan"))
