import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.air import AIR
from fedlab.analytic import Identity, RandomReLU
from fedlab.analytic.universe import over
from fedlab.errors import BadInput
from fedlab.stats import (
    ClassCounts,
    ClassWeights,
    GramStats,
    PerClass,
    StatisticsTotal,
    one_hot,
    pack,
    total_of,
    unpack,
)
from fedlab.stats.per_class import check_per_class, per_class_bytes
from tests.draws import FIXED, gap, same, samples, seeds

MODES = pytest.mark.parametrize("mode", ["float64", "exact"])
D, C = 8, 4
few = settings(max_examples=20)


def observe(x, labels, mode="exact", **settings):
    return AIR(C, Identity(), mode, **settings).observe(x, labels)


def plain(x, labels, mode):
    return GramStats.from_batch(x, one_hot(labels, C), FIXED if mode == "exact" else None)


@MODES
@few
@given(seed=seeds, n=st.integers(0, 70))
def test_classes_together_are_the_sum_over_all_samples(mode, seed, n):
    x, labels = samples(n, D, C, seed)
    result, expected = observe(x, labels, mode).weighted(), plain(x, labels, mode)
    if mode == "exact":
        assert same(result, expected) and result.sha256 == expected.sha256
    assert gap(result, expected) <= 1e-12


@MODES
def test_weighted_classes_are_weighted_samples(mode, device):
    x, labels = samples(60, D, C, device=device)
    weights = ClassWeights.tempered([4000, 2, 30, 1])
    result = observe(x, labels, mode).weighted(weights)
    direct = AIR(C, Identity(), mode, form="two_rounds").observe(x, labels, weights)
    if mode == "exact":
        assert result.sha256 == direct.sha256 and torch.equal(result.solve(0.1), direct.solve(0.1))
    assert torch.allclose(result.solve(0.1), direct.solve(0.1), rtol=0, atol=1e-12)
    assert result.target_squares == pytest.approx(direct.target_squares)


@MODES
@few
@given(seed=seeds, sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6))
def test_merging_forgetting_and_the_running_total(mode, seed, sizes):
    x, labels = samples(sum(sizes), D, C, seed)
    parts = [observe(*p, mode) for p in zip(x.split(sizes), labels.split(sizes), strict=True)]
    union, rest = observe(x, labels, mode), observe(x[sizes[0] :], labels[sizes[0] :], mode)
    running, one_by_one = StatisticsTotal(), parts[0]
    for part in parts:
        running.add(part)
    for part in parts[1:]:
        one_by_one = one_by_one + part
    for a, b in ((running.result(), union), (one_by_one, union), (one_by_one - parts[0], rest)):
        if mode == "exact":
            assert a.sha256 == b.sha256
        assert gap(a.weighted(), b.weighted()) <= 1e-12
        assert a.class_counts.tolist() == b.class_counts.tolist()


@MODES
@pytest.mark.parametrize("n", [0, 3, 40])
def test_it_comes_back_from_the_wire(mode, n):
    original = observe(*samples(n, D, C), mode)
    result = unpack(pack(original))
    assert isinstance(result, PerClass)
    if mode == "exact":
        assert result.sha256 == original.sha256
    assert gap(result.weighted(), original.weighted()) <= 1e-12
    counts = ClassCounts(original.class_counts)
    assert unpack(pack(counts)).class_counts.tolist() == counts.class_counts.tolist()


@MODES
def test_small_classes_are_rows_and_large_ones_a_triangle(mode):
    x, _ = samples(30, D)
    labels = torch.tensor([0] * 4 + [1] * 26)
    result = observe(x, labels, mode)
    assert result.classes[0].rows.shape == (4, D) and result.classes[0].triangle is None
    assert result.classes[1].triangle.shape == (D * (D + 1) // 2,) and result.classes[1].rows is None
    assert set(result.classes) == {0, 1}
    assert result.num_bytes == per_class_bytes([4, 26], D) == 8 * (4 * D + D + 36 + D)
    assert (result + result).classes[0].rows is None  # eight rows are more numbers than 36
    assert (result + result).num_bytes == per_class_bytes([8, 52], D)


@pytest.mark.slow
def test_many_small_clients_are_held_in_the_memory_of_their_sum():
    total = StatisticsTotal()
    for seed in range(200):
        total.add(observe(*samples(3, D, C, seed)))
    assert max(sum(map(len, rows)) for rows in total._sum._waiting.values()) <= D
    assert total.result().num_bytes == per_class_bytes(total.result().class_counts.tolist(), D)


def test_what_does_not_fit_is_refused_with_the_alternatives_and_nothing_changes():
    small = observe(*samples(40, D, C), memory=2000)
    digest = small.sha256
    with pytest.raises(BadInput, match=r"4 classes by 8 features, class by class, would take .* form=two_rounds"):
        observe(*samples(40, D, C), memory=500)
    lean = AIR(C, Identity(), memory=700).observe(*samples(6, D, 2))
    more = AIR(C, Identity()).observe(*samples(60, D, C))
    running = StatisticsTotal()
    running.add(lean)
    for add in (lambda: lean + more, lambda: running.add(more)):
        with pytest.raises(BadInput, match=r"would take .* of 700 B: use form=two_rounds"):
            add()
    assert running.result().sha256 == lean.sha256 and small.sha256 == digest
    with pytest.raises(BadInput, match="form=two_rounds"):
        # 100 classes of 30,000 samples by 65,536 features: the triangles alone are 1.6 TiB.
        check_per_class([60_000] * 100, 65_536, None)


def test_statistics_that_do_not_fit_or_were_never_added_are_refused():
    mine = observe(*samples(20, D, C))
    digest = mine.sha256
    for other in (over(mine, range(C), C + 1), observe(*samples(9, D + 1, C)), observe(*samples(9, D, C), "float64")):
        for combine in (lambda a, b: a + b, lambda a, b: a - b):
            with pytest.raises(BadInput, match="cannot combine statistics"):
                combine(mine, other)
    with pytest.raises(BadInput, match="cannot remove"):
        _ = observe(*samples(3, D, C)) - mine
    with pytest.raises(BadInput, match="cannot narrow"):
        over(mine, range(C), C - 1)
    with pytest.raises(BadInput, match="have no weight"):
        mine.weighted(ClassWeights.tempered([1, 0, 1, 1]))
    with pytest.raises(BadInput, match="no statistics to add"):
        total_of([])
    with pytest.raises(BadInput, match="cannot combine PerClass with GramStats"):
        running = StatisticsTotal()
        running.add(mine)
        running.add(mine.weighted())
    assert mine.sha256 == digest


def put(name, index, value):
    return lambda packed: packed[name].__setitem__(index, value)


MALFORMED = {
    "an unknown kind": put("kind", 0, 9),
    "a class out of range": lambda p: p.update({f"7/{k}": p[f"0/{k}"] for k in ("shape", "scale")}),
    "a class without a number": lambda p: p.update({"x/shape": p["0/shape"]}),
    "a class written twice": lambda p: p.update({f"00/{k[2:]}": p[k] for k in list(p) if k[:2] == "0/"}),
    "a class of another width": put("0/shape", 0, D + 1),
    "a class of two columns": put("0/shape", 1, 2),
    "a saturated class": put("0/shape", 3, 1),
    "a class without samples": lambda p: p.update({"0/class_counts": p["0/class_counts"] * 0}),
    "a class of another scale": put("0/scale", 0, 7.0),
    "a lacking part": lambda p: p.pop("0/cross"),
    "no shape": lambda p: p.pop("shape"),
    "no scale": lambda p: p.pop("scale"),
    "a negative saturation": put("shape", 2, -1),
    "no classes": put("shape", 1, 0),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_message_is_refused(name):
    packed = {key: array.copy() for key, array in pack(observe(*samples(60, D, C))).items()}
    MALFORMED[name](packed)
    with pytest.raises(BadInput, match="packed statistics"):
        unpack(packed)


def test_counts_are_additive_and_checked():
    a, b = ClassCounts(torch.tensor([1, 2])), ClassCounts(torch.tensor([3, 0]))
    assert (a + b).class_counts.tolist() == [4, 2] and (a + b - a).class_counts.tolist() == [3, 0]
    with pytest.raises(BadInput, match="cannot remove"):
        _ = a - b
    with pytest.raises(BadInput, match="2 classes with those of 1"):
        _ = a + ClassCounts(torch.tensor([1]))
    packed = pack(a)
    packed["class_counts"][0] = -1
    with pytest.raises(BadInput, match="no negative count"):
        unpack(packed)


def test_clients_of_random_features_add_up_to_the_very_bits():
    x, labels = samples(300, 5, C)
    model = AIR(C, RandomReLU(width=64))
    statistics = model.observe(x, labels)
    parts = total_of(unpack(pack(model.observe(a, b))) for a, b in zip(x.split(7), labels.split(7), strict=True))
    assert parts.sha256 == statistics.sha256
    assert torch.equal(model.fit(parts), model.fit(statistics))
