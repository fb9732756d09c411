import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.aefocl import AEFOCL
from fedlab.analytic import Identity
from fedlab.analytic.universe import over
from fedlab.errors import BadInput
from fedlab.stats import ClassMoments, StatisticsTotal, WithMoments, pack, unpack
from tests.draws import FIXED, samples, seeds

MODES = pytest.mark.parametrize("exact", [False, True], ids=["float64", "exact"])
D, C = 5, 3
few = settings(max_examples=30)


def moments(x, labels, exact, c=C):
    return ClassMoments.of(FIXED.encode(x)[0] if exact else x, labels, c, FIXED.scale if exact else None)


def agree(a, b, exact):
    assert a.counts.tolist() == b.counts.tolist()
    if exact:
        assert a.sha256 == b.sha256
    assert torch.allclose(a.mean, b.mean, rtol=0, atol=1e-12)
    assert torch.allclose(a.variance, b.variance, rtol=0, atol=1e-12)


@MODES
def test_moments_are_those_of_the_samples(exact, device):
    x, labels = samples(200, D, C, device=device)
    result = moments(x, labels, exact)
    values = FIXED.decode(FIXED.encode(x)[0]) if exact else x
    for c in range(C):
        here = values[labels == c]
        assert int(result.counts[c]) == len(here)
        assert torch.allclose(result.mean[c], here.mean(0), rtol=0, atol=1e-13)
        assert torch.allclose(result.variance[c], here.var(0, unbiased=False), rtol=0, atol=1e-13)
    assert result.mean.device.type == result.variance.device.type == device


@MODES
@few
@given(seed=seeds, n=st.integers(0, 40), clients=st.integers(1, 6))
def test_merge_is_union_and_forgetting_is_retraining(exact, seed, n, clients):
    x, labels = samples(n, D, C, seed)
    holder = torch.randint(clients, (n,), generator=torch.Generator().manual_seed(seed))
    held = [moments(x[holder == k], labels[holder == k], exact) for k in range(clients)]
    total = held[0]
    for part in held[1:]:
        total = total + part
    agree(total, moments(x, labels, exact), exact)
    left = total - held[0]
    agree(left, moments(x[holder != 0], labels[holder != 0], exact), exact)
    assert bool((left.variance >= 0).all())


@MODES
@few
@given(value=st.floats(-1, 1), n=st.integers(1, 300), cut=st.integers(0, 300))
def test_constant_features_have_no_variance_however_they_are_merged_and_forgotten(exact, value, n, cut):
    x, labels = torch.full((n, D), value, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)
    a, b = moments(x[:cut], labels[:cut], exact), moments(x[cut:], labels[cut:], exact)
    for result in (a + b, a + b - b, a + b - a, b):
        assert bool((result.variance >= 0).all()) and float(result.variance.max()) <= 1e-28


def test_large_means_do_not_swallow_small_variances():
    x, labels = samples(400, D, 1)
    shifted = ClassMoments.of(x * 1e-3 + 1e6, labels, 1)
    parts = [ClassMoments.of(p * 1e-3 + 1e6, q, 1) for p, q in zip(x.split(7), labels.split(7), strict=True)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged + part
    # 1e6 has 1e-10 to say of; E[x^2] - E[x]^2 would err by 1e-4 on a variance of 3e-7.
    for result in (shifted, merged, merged - parts[3] + parts[3]):
        assert torch.allclose(result.variance, x.var(0, unbiased=False)[None] * 1e-6, rtol=1e-4)


def test_integer_moments_are_exact_beyond_2_to_63():
    # 20 bits and 2^21 samples: n sum q^2 is 2^80.
    levels, n = 2**19 - 1, 2**21
    alike = ClassMoments(
        torch.tensor([n]), torch.tensor([[n * levels]]), torch.tensor([[n * levels**2]]), float(levels)
    )
    assert float(alike.mean) == 1.0 and float(alike.variance) == 0.0
    one_less = ClassMoments(
        torch.tensor([n]), torch.tensor([[n * levels - 1]]), torch.tensor([[n * levels**2 - 2 * levels + 1]]), 1.0
    )
    # A single q is levels - 1: var = 1/n - 1/n^2.
    assert float(one_less.variance) == (n - 1) / n**2
    assert bool(((alike - alike).variance == 0).all())


@MODES
def test_they_come_back_from_the_wire_with_their_sums(exact, device):
    model = AEFOCL(C, Identity(), "exact" if exact else "float64")
    for n in (0, 1, 30):
        original = model.observe(*samples(n, D, 2, device=device))
        result = unpack(pack(original), device)
        assert isinstance(result, WithMoments) and result.moments.first.device.type == device
        agree(result.moments, original.moments, True)
        assert result.sha256 == original.sha256 or not exact


@MODES
def test_a_running_total_is_the_sum_and_refusals_leave_it_alone(exact):
    model = AEFOCL(C, Identity(), "exact" if exact else "float64")
    parts = [model.observe(*samples(n, D, C, n)) for n in (3, 0, 20)]
    total = StatisticsTotal()
    for part in parts:
        total.add(part)
    agree(total.result().moments, (parts[0] + parts[1] + parts[2]).moments, exact)
    before = total.result().sha256
    wider = AEFOCL(C, Identity(), model.mode).observe(*samples(3, D + 1, C))
    torn = WithMoments(parts[0].sums, wider.moments)
    for bad in (wider, torn, over(parts[0], range(C), C + 1)):
        with pytest.raises(BadInput, match="cannot combine"):
            total.add(bad)
    assert total.result().sha256 == before


def test_what_was_never_added_cannot_be_removed():
    for exact in (False, True):
        a, b = moments(*samples(5, D, C), exact), moments(*samples(30, D, C), exact)
        with pytest.raises(BadInput, match=r"cannot remove \d+ samples of class"):
            _ = a - b
    x, labels = samples(6, D, 1)
    with pytest.raises(BadInput, match="never part of"):
        _ = moments(x[:3] / 9, labels[:3], True, 1) - moments(x[3:], labels[3:], True, 1)
    with pytest.raises(BadInput, match="cannot combine statistics"):
        _ = moments(x, labels, True, 1) - moments(x, labels, False, 1)


SPOILT = {
    "no counts": lambda p: p.pop("moments/counts"),
    "no first": lambda p: p.pop("moments/first"),
    "no kind of its own": lambda p: p.update(kind=p["kind"] + 6),
    "short second": lambda p: p.update({"moments/second": p["moments/second"][:-1]}),
    "a negative square": lambda p: p.update({"moments/second": p["moments/second"].astype(np.int64) - 2**40}),
    "other counts": lambda p: p.update({"moments/counts": p["moments/counts"] + 1}),
    "a class twice": lambda p: p.update({"moments/classes": p["moments/classes"] * 0}),
    "other classes": lambda p: p["moments/shape"].__setitem__(0, C + 1),
    "floats for integers": lambda p: p.update({"moments/first": p["moments/first"] * 1.0}),
    "no scale": lambda p: p["moments/scale"].__setitem__(0, 0.0),
    "no sums": lambda p: [p.pop(name) for name in list(p) if name.startswith("sums/")],
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_malformed_message_is_refused(name):
    packed = {k: v.copy() for k, v in pack(AEFOCL(C, Identity()).observe(*samples(30, D, C))).items()}
    SPOILT[name](packed)
    with pytest.raises(BadInput, match="packed"):
        unpack(packed)
