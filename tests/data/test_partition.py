import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.data.partition import Dirichlet, Iid, Natural, Quantity, Shards
from fedlab.errors import BadInput

kinds = st.one_of(
    st.just(Iid()),
    st.floats(1e-6, 1e6).map(Dirichlet),
    st.integers(1, 20).map(Shards),
    st.floats(1e-6, 1e6).map(Quantity),
)
# 1,437 samples in 10 classes: the train split of the digits has this shape.
LABELS = np.random.default_rng(0).integers(0, 10, 1437)


def is_partition(parts, n):
    held = np.concatenate(parts)
    return held.dtype == np.int64 and np.array_equal(np.sort(held), np.arange(n))


@settings(max_examples=60, deadline=None)
@given(
    kind=kinds,
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=80),
    clients=st.integers(1, 40),
    seed=st.integers(0, 2**32),
)
def test_every_sample_is_with_exactly_one_client(kind, labels, clients, seed):
    parts = kind.split(np.array(labels), {}, clients, seed)
    assert len(parts) == clients
    assert is_partition(parts, len(labels))


@settings(max_examples=20, deadline=None)
@given(ids=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=60), seed=st.integers(0, 2**32))
def test_natural_ids_are_clients_in_sorted_order(ids, seed):
    ids = np.array(ids)
    parts = Natural("domain").split(np.zeros(len(ids), int), {"domain": ids}, None, seed)
    assert is_partition(parts, len(ids))
    assert [set(ids[part]) for part in parts] == [{name} for name in sorted(set(ids.tolist()))]


def test_the_only_natural_id_needs_no_name():
    ids = np.array(["a", "b", "a"])
    named, unnamed = (Natural(by).split(np.zeros(3, int), {"domain": ids}, None, 0) for by in ("domain", None))
    assert [part.tolist() for part in named] == [part.tolist() for part in unnamed]
    with pytest.raises(BadInput, match="known are domain, writer"):
        Natural().split(np.zeros(3, int), {"domain": ids, "writer": ids}, None, 0)


@pytest.mark.parametrize("kind", [Iid(), Dirichlet(0.1), Shards(2), Quantity(0.5)])
def test_the_seed_and_nothing_else_decides(kind):
    first = kind.split(LABELS, {}, 20, 7)
    np.random.seed(123)  # noqa: NPY002 - the global state is what must not matter
    again = kind.split(LABELS, {}, 20, 7)
    other = kind.split(LABELS, {}, 20, 8)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_iid_sizes_differ_by_one_at_most():
    sizes = [len(part) for part in Iid().split(LABELS, {}, 100, 0)]
    assert (min(sizes), max(sizes)) == (14, 15)


def classes_per_client(parts):
    return np.mean([len(set(LABELS[part])) for part in parts if len(part)])


def test_smaller_alpha_means_fewer_classes_per_client():
    skews = [classes_per_client(Dirichlet(alpha).split(LABELS, {}, 20, 0)) for alpha in (0.01, 0.3, 100.0)]
    assert skews[0] < 2.5 < skews[1] < 9 < skews[2]


def test_shards_are_equal_and_hold_few_classes():
    parts = Shards(2).split(LABELS[:1400], {}, 20, 0)
    assert {len(part) for part in parts} == {70}
    # 2 shards a client, each over at most 2 neighbouring classes of 140 samples: 40 shards, 10 classes
    assert classes_per_client(parts) <= 4
    # Nothing is dropped where 1437 is no multiple of the 40 shards.
    sizes = [len(part) for part in Shards(2).split(LABELS, {}, 20, 0)]
    assert sum(sizes) == 1437
    assert max(sizes) <= 2 * 36


def test_quantity_skews_sizes_but_not_labels():
    parts = Quantity(0.3).split(LABELS, {}, 10, 0)
    sizes = np.array([len(part) for part in parts])
    assert sizes.max() > 3 * np.median(sizes)
    largest = np.bincount(LABELS[parts[sizes.argmax()]], minlength=10) / sizes.max()
    assert np.abs(largest - np.bincount(LABELS) / len(LABELS)).max() < 0.06


@pytest.mark.parametrize("kind", [Iid(), Dirichlet(0.01), Shards(2), Quantity(0.01)])
def test_a_thousand_clients_may_be_empty(kind):
    parts = kind.split(LABELS, {}, 1000, 0)
    assert is_partition(parts, 1437)
    if kind != Iid():
        assert any(len(part) == 0 for part in parts)


def test_more_clients_than_samples_leaves_clients_empty_anywhere():
    parts = Iid().split(LABELS[:5], {}, 50, 3)
    holders = [i for i, part in enumerate(parts) if len(part)]
    assert len(holders) == 5
    assert holders != list(range(5))


def test_nothing_is_printed(capfd):
    Natural("d").split(LABELS, {"d": LABELS}, 10, 0)
    Shards(2).split(LABELS, {}, 10, 0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Dirichlet(0), r"alpha=0 must be a finite number in \(0, 1000000000.0\]"),
        (lambda: Dirichlet(-1.0), "alpha=-1.0"),
        (lambda: Dirichlet(float("nan")), "alpha=nan"),
        (lambda: Quantity(float("inf")), "alpha=inf"),
        (lambda: Dirichlet("a"), "alpha='a'"),
        (lambda: Shards(0), "per_client=0"),
        (lambda: Shards(1.5), "per_client=1.5 must be a whole number >= 1"),
        (lambda: Iid().split(LABELS, {}, 0, 0), "clients=0"),
        (lambda: Iid().split(LABELS, {}, -3, 0), "clients=-3"),
        (lambda: Iid().split(LABELS, {}, None, 0), "clients=null"),
        (lambda: Iid().split(LABELS, {}, 2.5, 0), "clients=2.5"),
        (lambda: Iid().split(LABELS, {}, 3, -1), "seed=-1"),
        (lambda: Iid().split(LABELS[:0], {}, 3, 0), "0 samples"),
        (lambda: Shards(10**6).split(LABELS, {}, 1000, 0), "1000000000 shards, limit"),
        (lambda: Natural("domain").split(LABELS, {}, None, 0), "no natural ids"),
        (lambda: Natural("domian").split(LABELS, {"domain": LABELS}, None, 0), "did you mean 'domain'"),
        (lambda: Natural("d").split(LABELS, {"d": LABELS}, 9, 0), "clients=9, but 'd' has 10 natural ids"),
    ],
)
def test_what_cannot_be_used_is_refused(build, message):
    with pytest.raises(BadInput, match=message):
        build()


def test_iid_is_what_flower_datasets_deals():
    from datasets import Dataset as Table
    from flwr_datasets.partitioner import IidPartitioner

    n, k = 103, 10
    partitioner = IidPartitioner(k)
    partitioner.dataset = Table.from_dict({"row": np.random.default_rng(7).permutation(n)})
    theirs = [np.sort(np.asarray(partitioner.load_partition(i)["row"][:])) for i in range(k)]
    ours = Iid().split(np.zeros(n, dtype=np.int64), {}, k, 7)
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
