from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlab.errors import BadInput
from fedlab.stats import FixedPoint, GramStats, GramSum, one_hot, pack, unpack
from tests.draws import FIXED, gap, same, samples, seeds, statistics

MODES = pytest.mark.parametrize("fixed", [None, FIXED], ids=["float64", "exact"])


def nbytes(packed):
    return sum(array.nbytes for array in packed.values())


# -- there and back ----------------------------------------------------------------------------------------


@MODES
@given(n=st.integers(0, 30), d=st.integers(1, 12), c=st.integers(1, 5), seed=seeds)
def test_what_is_packed_comes_back(fixed, n, d, c, seed):
    original = statistics(n, d, c, seed, fixed)
    unpacked = unpack(pack(original))
    assert same(unpacked, original) if fixed else gap(unpacked, original) <= 1e-12
    assert torch.equal(unpacked.cross, original.cross)
    assert fixed is None or unpacked.sha256 == original.sha256


@MODES
@given(n=st.integers(0, 12), m=st.integers(1, 12), seed=seeds)
def test_what_remains_after_a_subtraction_can_be_packed(fixed, n, m, seed):
    a, b = statistics(n, 6, 3, seed, fixed), statistics(m, 6, 3, seed + 1, fixed)
    left = (a + b) - b
    unpacked = unpack(pack(left))
    # The matrix travels as it is, so that the bits stay; only rows become a factor.
    assert torch.equal(unpacked.gram, left.gram) and torch.equal(unpacked.cross, left.cross)
    assert same(unpacked, a) if fixed else gap(unpacked, a) <= 1e-12


@MODES
def test_statistics_of_either_device_pack_to_the_same_message(fixed, device):
    here, there = statistics(3, 8, fixed=fixed), statistics(3, 8, fixed=fixed, device=device)
    a, b = pack(here), pack(there)
    assert a.keys() == b.keys() and all(a[name].dtype == b[name].dtype for name in a)
    unpacked = unpack(b, device)
    assert unpacked.gram.device.type == unpacked.cross.device.type == unpacked.class_counts.device.type == device
    assert same(unpack(b), here) if fixed else gap(unpack(b), here) <= 1e-12


def test_saturated_entries_and_the_scale_travel():
    y = one_hot(torch.tensor([1, 1]), 3)
    original = GramStats.from_batch(torch.tensor([[5.0, 0.1], [0.2, -7.0]]), y, FixedPoint(0.5, 10))
    unpacked = unpack(pack(original))
    assert (unpacked.saturated, unpacked.scale, unpacked.class_counts.tolist()) == (2, 1022.0, [0, 2, 0])


@MODES
@pytest.mark.parametrize("n", [3, 30])
def test_a_message_is_independent_of_the_arrays_it_came_from(fixed, n):
    original = statistics(n, 8, fixed=fixed)
    packed = pack(original)
    unpacked = unpack(packed)
    for array in packed.values():
        array[...] = 0
    assert same(unpacked, original) if fixed else gap(unpacked, original) <= 1e-12
    assert same(original, statistics(n, 8, fixed=fixed))


def test_raw_features_stay_at_home():
    x, labels = samples(10, 64)
    packed = pack(GramStats.from_batch(x, one_hot(labels, 3), FIXED))
    q, _ = FIXED.encode(x)
    factor = unpack(packed).rows
    assert factor is not None and factor.shape == q.shape
    # Rows of R mix all samples; only a single sample is its own factor (up to its sign).
    assert not any(torch.allclose(r.abs(), s.abs(), atol=1.0) for r in factor for s in q)


# -- bytes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(1, 64), (5, 64), (18, 64)])
def test_few_samples_send_a_trapezoid(n, d):
    packed = pack(statistics(n, d, fixed=FIXED))
    assert "gram" not in packed and packed["factor"].shape == (n * d - n * (n - 1) // 2,)


@pytest.mark.parametrize("n", [19, 64, 500])
def test_many_samples_send_a_triangle_of_32_bits(n):
    packed = pack(statistics(n, 64, fixed=FIXED))
    assert "factor" not in packed
    assert packed["gram"].shape == (64 * 65 // 2,) and packed["gram"].dtype == np.int32


@pytest.mark.parametrize(
    ("largest", "kind"), [(127, np.int8), (128, np.int16), (2**15, np.int32), (2**31 - 1, np.int32), (2**31, np.int64)]
)
def test_integers_travel_in_the_narrowest_type(largest, kind):
    stats = replace(GramStats.zeros(3, 2, scale=1.0), rows=None, matrix=torch.eye(3, dtype=torch.int64) * largest)
    packed = pack(stats)
    assert packed["gram"].dtype == kind and same(unpack(packed), stats)


def test_absent_classes_cost_nothing():
    x, _ = samples(40, 16)
    few = pack(GramStats.from_batch(x, one_hot(torch.arange(40) % 2, 100), FIXED))
    assert few["classes"].tolist() == [0, 1] and few["cross"].shape == (32,)
    assert nbytes(few) < 16 * 17 // 2 * 4 + 32 * 4 + 100


def test_an_empty_client_sends_a_few_bytes():
    assert nbytes(pack(GramStats.zeros(2048, 100, FIXED.scale))) <= 48


# -- refusals ----------------------------------------------------------------------------------------------


def put(name, index, value):
    def change(packed):
        packed[name] = packed[name].astype(np.result_type(packed[name], type(value)))
        packed[name][index] = value

    return change


def cast(name, kind):
    return lambda packed: packed.update({name: packed[name].astype(kind)})


def drop(name):
    return lambda packed: packed.pop(name)


def shorten(name):
    return lambda packed: packed.update({name: packed[name][:-1]})


def deepen(name):
    return lambda packed: packed.update({name: packed[name][None]})


ALWAYS = ["shape", "scale", "classes", "class_counts", "cross"]
MALFORMED = {
    **{f"no {name}": drop(name) for name in ALWAYS},
    **{f"short {name}": shorten(name) for name in ALWAYS},
    **{f"deep {name}": deepen(name) for name in ALWAYS},
    **{f"{name} of text": cast(name, "U8") for name in ALWAYS},
    **{f"{name} of objects": cast(name, object) for name in ALWAYS},
    **{f"{name} of complex numbers": cast(name, complex) for name in ALWAYS},
    **{f"{name} of floats": cast(name, float) for name in ("shape", "classes", "class_counts")},
    **{f"unsigned {name}": cast(name, np.uint64) for name in ("shape", "classes", "class_counts")},
    **{f"{name} holds {value}": put(name, 0, value) for name in ("scale",) for value in (np.nan, np.inf, -1.0)},
    "no features": put("shape", 0, 0),
    "no classes": put("shape", 1, 0),
    "another width": put("shape", 0, 7),
    "a width beyond memory": put("shape", 0, 2**40),
    "negative saturation": put("shape", 3, -1),
    "class out of range": put("classes", -1, 3),
    "negative class": put("classes", 0, -1),
    "a class twice": put("classes", 1, 0),
    "a negative count": put("class_counts", 0, -1),
    "a part that excludes the other": lambda packed: packed.update(gram=np.zeros(0), factor=np.zeros(0)),
}
SUMS = {
    "missing": lambda name: drop(name),
    "short": lambda name: shorten(name),
    "deep": lambda name: deepen(name),
    "of text": lambda name: cast(name, "U8"),
    "NaN": lambda name: put(name, 0, np.nan),
    "infinite": lambda name: put(name, 0, -np.inf),
}


def refused(change, n, fixed, match=None):
    """Unpacking refuses the changed message, and the running total does not notice."""
    total = GramSum()
    total.add(statistics(5, 8, fixed=fixed))
    before = total.result()
    packed = pack(statistics(n, 8, seed=2, fixed=fixed))
    change(packed)
    with pytest.raises(BadInput, match=match or "packed statistics"):
        total.add(unpack(packed))
    assert same(total.result(), before)


@MODES
@pytest.mark.parametrize("n", [3, 20], ids=["factor", "gram"])
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_message_is_refused(fixed, n, name):
    refused(MALFORMED[name], n, fixed)


@MODES
@pytest.mark.parametrize(("n", "part"), [(2, "factor"), (20, "gram"), (20, "cross")])
@pytest.mark.parametrize("name", SUMS)
def test_malformed_sums_are_refused(fixed, n, part, name):
    refused(SUMS[name](part), n, fixed)


@pytest.mark.parametrize("part", ["gram", "cross"])
def test_exact_sums_are_integers(part):
    refused(cast(part, float), 20, FIXED, f"{part} has type float64, expected signed integers")


def test_a_square_is_not_negative():
    refused(put("gram", 0, -5), 20, FIXED, "gram has -5 on its diagonal")


@pytest.mark.parametrize("rows", [-1, 3, 9, 2**40])
def test_a_factor_has_the_rows_it_names(rows):
    refused(put("shape", 2, rows), 2, FIXED)


@pytest.mark.parametrize("index", range(15))
@pytest.mark.parametrize("error", [1e-3, 0.5, 1e20, 1e300])
def test_a_damaged_factor_is_refused_wherever_it_was_hit(index, error):
    def damage(packed):
        packed["factor"][index] += error

    refused(damage, 2, FIXED, "factor is none of integers")


def test_a_factor_of_other_units_is_refused():
    refused(lambda packed: packed.update(factor=packed["factor"] / 3), 2, FIXED, "another scale")


def test_a_factor_that_rounding_could_not_recover_is_not_sent():
    # 20 bits: R'R errs by up to sqrt(n) eps |x|^2 ~ 1e-2 here and by more than 1/2 for longer rows.
    fixed = FixedPoint(1.0, 20)
    assert "factor" in pack(statistics(5, 512, fixed=fixed))
    original = statistics(100, 512, fixed=fixed)
    assert "factor" not in pack(original) and same(unpack(pack(original)), original)
