import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlab.errors import BadInput
from fedlab.stats import ClassWeights, GramStats, one_hot, pack, packed_bytes, total_of, unpack
from fedlab.stats.class_weights import FINEST
from tests.draws import FIXED, gap, same, samples, seeds

MODES = pytest.mark.parametrize("fixed", [None, FIXED], ids=["float64", "exact"])
D, C = 6, 4
COUNTS = st.lists(st.integers(0, 100_000), min_size=1, max_size=9)


def reduced(x, labels, fixed, weights):
    y = one_hot(labels, C)
    if fixed is None:
        return GramStats.from_integers(x, y, None, 0, weights)
    return GramStats.from_integers(fixed.encode(x)[0], y, fixed.scale, 0, weights)


@given(counts=COUNTS, tau=st.floats(0, 2))
def test_weights_are_the_formula_with_mean_one_over_seen_classes(counts, tau):
    values = ClassWeights.tempered(counts, tau).values
    seen = [n for n in counts if n]
    mean = sum(n**-tau for n in seen) / max(1, len(seen))
    for n, value in zip(counts, values, strict=True):
        assert value == pytest.approx(n**-tau / mean, rel=1e-12) if n else value == 0
    assert not seen or sum(values) == pytest.approx(len(seen))


@given(counts=COUNTS, tau=st.floats(0, 1))
def test_exact_weights_keep_sixteen_bits_of_the_smallest(counts, tau):
    weights = ClassWeights.tempered(counts, tau)
    whole, unit = weights.factors(exact=True), weights.unit
    assert unit & (unit - 1) == 0 and unit <= FINEST
    for value, integer in zip(weights.values, whole.tolist(), strict=True):
        assert abs(integer / unit - value) <= value * 2.0**-17
        assert (integer > 0) == (value > 0)


def test_tau_zero_counts_samples_and_tau_one_classes():
    assert ClassWeights.tempered([5, 0, 100], 0.0).values == (1.0, 0.0, 1.0)
    assert ClassWeights.tempered([5, 0, 100], 0.0).plain
    p = ClassWeights.tempered([5, 0, 100], 1.0).values
    assert p[0] * 5 == pytest.approx(p[2] * 100) and p[0] + p[2] == pytest.approx(2)
    assert ClassWeights.tempered([7, 7, 0], 1.0).plain
    assert ClassWeights.tempered([0, 0], 1.0).values == (0.0, 0.0)


@MODES
@pytest.mark.parametrize("n", [4, 90])
def test_whole_weights_are_replicated_samples(fixed, n, device):
    x, labels = samples(n, D, C, device=device)
    times = torch.tensor([3, 1, 2, 5], device=device)
    copies = torch.arange(n, device=device).repeat_interleave(times[labels])
    weighted = reduced(x, labels, fixed, ClassWeights((3.0, 1.0, 2.0, 5.0)))
    replicated = reduced(x[copies], labels[copies], fixed, None)
    assert weighted.target_squares == replicated.count and weighted.count == n
    if fixed:
        assert torch.equal(weighted.gram, replicated.gram)
        assert torch.equal(weighted.cross, replicated.cross)
        assert torch.equal(weighted.solve(0.1), replicated.solve(0.1))
    assert torch.allclose(weighted.gram.double(), replicated.gram.double(), rtol=1e-13)
    assert torch.allclose(weighted.solve(0.1), replicated.solve(0.1), rtol=0, atol=1e-12)


@MODES
@given(seed=seeds, n=st.integers(0, 60), clients=st.integers(1, 9))
def test_weighted_sums_do_not_depend_on_who_holds_what(fixed, seed, n, clients):
    x, labels = samples(n, D, C, seed)
    weights = ClassWeights.tempered([40_000, 3, 200, 17])
    holder = torch.randint(clients, (n,), generator=torch.Generator().manual_seed(seed))
    held = [reduced(x[holder == k], labels[holder == k], fixed, weights) for k in range(clients)]
    whole, total = reduced(x, labels, fixed, weights), total_of(unpack(pack(p)) for p in held)
    one_by_one = held[0]
    for part in held[1:]:
        one_by_one = one_by_one + part
    rest = one_by_one - held[0]
    without = reduced(x[holder != 0], labels[holder != 0], fixed, weights)
    for a, b in ((total, whole), (one_by_one, whole), (rest, without)):
        if fixed:
            assert same(a, b) and a.sha256 == b.sha256 and torch.equal(a.solve(0.1), b.solve(0.1))
        assert gap(a, b) <= 1e-12 * max(1, a.weighting[0])
        assert a.target_squares == pytest.approx(b.target_squares)


@MODES
@pytest.mark.parametrize("sizes", [[3, 2, 0, 1], [40, 3, 90]])
def test_bytes_of_weighted_messages_are_counted_without_packing(fixed, sizes):
    n = sum(sizes)
    x, labels = samples(n, D, C)
    q = x if fixed is None else fixed.encode(x)[0]
    for weights in (ClassWeights.tempered([40_000, 3, 200, 17]), ClassWeights((1.0,) * C)):
        parts = zip(x.split(sizes), labels.split(sizes), strict=True)
        result = [pack(reduced(*part, fixed, weights)) for part in parts]
        num_bytes = packed_bytes(q.numpy(), labels.numpy(), sizes, C, fixed is not None, weights)
        assert num_bytes == sum(array.nbytes + 128 for arrays in result for array in arrays.values())


def test_statistics_of_other_weights_are_refused():
    x, labels = samples(9, D, C)
    plain = reduced(x, labels, FIXED, None)
    fine = reduced(x, labels, FIXED, ClassWeights.tempered([40_000, 3, 200, 17]))
    coarse = reduced(x, labels, FIXED, ClassWeights((0.5, 1.0, 1.0, 1.0)))
    for a, b in ((plain, fine), (fine, coarse), (coarse, plain)):
        for combine in (lambda a, b: a + b, lambda a, b: a - b, lambda a, b: total_of([a, b])):
            with pytest.raises(BadInput, match="must weight by the same counts"):
                combine(a, b)


def test_samples_of_a_class_without_weight_are_refused():
    weights = ClassWeights.tempered([5, 0, 3, 0])
    weights.check(torch.tensor([1, 0, 0, 0]))
    with pytest.raises(BadInput, match=r"7 samples of the classes \[1, 3\] have no weight"):
        weights.check(torch.tensor([1, 3, 0, 4]))
    with pytest.raises(BadInput, match="4 class weights for 3 classes"):
        weights.check(torch.tensor([1, 0, 0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassWeights.tempered([1, 2], -0.1), r"tau=-0\.1"),
        (lambda: ClassWeights.tempered([1, 2], float("nan")), "tau=nan"),
        (lambda: ClassWeights.tempered([1, 2], 2.5), r"tau=2\.5"),
        (lambda: ClassWeights.tempered([1, -2]), r"class counts \[1, -2\]"),
        (lambda: ClassWeights((1.0, float("nan"))), "must be finite"),
        (lambda: ClassWeights((1.0, -1.0)), "must be finite and >= 0"),
        (lambda: ClassWeights.tempered([1, 10**9], 2.0).unit, "lower tau, or use mode=float64"),
    ],
)
def test_weights_that_cannot_be_are_refused(make, message):
    with pytest.raises(BadInput, match=message):
        make()


def test_a_weighted_sum_past_int64_is_refused():
    x = torch.ones(4, D, dtype=torch.float64)
    weights = ClassWeights((2.0**62, 1.0, 1.0, 1.0))
    with pytest.raises(BadInput, match="lower"):
        reduced(x, torch.zeros(4, dtype=torch.int64), FIXED, weights)


@pytest.mark.parametrize("bad", [(3.0, 1.0), (0.0, 1.0), (2.0, -1.0), (float("nan"), 1.0)])
def test_a_weighting_that_cannot_be_is_refused_on_arrival(bad):
    x, labels = samples(9, D, C)
    packed = pack(reduced(x, labels, FIXED, ClassWeights.tempered([4, 3, 2, 1])))
    packed["weighting"][:] = bad
    with pytest.raises(BadInput, match="packed statistics"):
        unpack(packed)
