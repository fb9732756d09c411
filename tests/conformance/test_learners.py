"""What every analytic learner promises; a new one enters by a row in `learners.py`."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.analytic.universe import over
from fedlab.engine.messages.records import from_record, to_record
from fedlab.errors import BadInput
from fedlab.stats import StatisticsTotal, WithMoments, pack, plain_sums, unpack
from tests.conformance.learners import LEARNERS, C
from tests.draws import gap, same, samples, seeds

EVERY = pytest.mark.parametrize("row", LEARNERS, ids=lambda row: row.name)
# Examples are small (d = 24) and each fits a head or two: fewer than hypothesis's hundred say as much.
few = settings(max_examples=15)
D0 = 6
RIDGE = 0.1


def total(parts):
    parts = list(parts)
    found = parts[0]
    for part in parts[1:]:
        found = found + part
    return found


def agree(row, a, b):
    """Equal statistics and equal heads, to the bit or to the stated tolerance."""
    assert type(a) is type(b)
    if row.exact:
        assert same(plain_sums(a), plain_sums(b)) and a.sha256 == b.sha256
    else:
        assert gap(plain_sums(a), plain_sums(b)) <= 1e-12
    if isinstance(a, WithMoments):
        close = {"rtol": 0, "atol": 1e-12}
        assert torch.allclose(a.moments.mean, b.moments.mean, **close)
        assert torch.allclose(a.moments.variance, b.moments.variance, **close)
    one, two = row.learner.fit(a, RIDGE), row.learner.fit(b, RIDGE)
    if row.exact:
        assert torch.equal(one, two)
    else:
        gram = plain_sums(a).gram
        condition = float(torch.linalg.cond(gram + RIDGE * torch.eye(len(gram), dtype=torch.float64)))
        limit = max(1e-10, 10 * 2.2e-16 * condition)
        assert float((one - two).abs().max()) <= limit * max(1.0, float(two.abs().max())), f"{condition=:.1e}"


@EVERY
@few
@given(n=st.integers(1, 60), seed=seeds)
def test_order_does_not_matter(row, n, seed):
    x, labels = samples(n, D0, C, seed)
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    agree(row, row.learner.observe(x[shuffled], labels[shuffled]), row.learner.observe(x, labels))


@EVERY
@few
@given(n=st.integers(1, 60), batch=st.integers(1, 60), seed=seeds)
def test_batches_do_not_matter(row, n, batch, seed):
    x, labels = samples(n, D0, C, seed)
    pieces = zip(x.split(batch), labels.split(batch), strict=True)
    agree(row, total(row.learner.observe(*piece) for piece in pieces), row.learner.observe(x, labels))


@EVERY
@few
@given(n=st.integers(0, 60), clients=st.integers(1, 20), seed=seeds)
def test_the_partition_does_not_matter_and_merge_is_union(row, n, clients, seed):
    x, labels = samples(n, D0, C, seed)
    holder = torch.randint(clients, (n,), generator=torch.Generator().manual_seed(seed))
    held = [row.learner.observe(x[holder == k], labels[holder == k]) for k in range(clients)]
    agree(row, total(held), row.learner.observe(x, labels))
    agree(row, total(reversed(held)), row.learner.observe(x, labels))
    running = StatisticsTotal()
    for part in held:
        running.add(unpack(pack(part)))
    agree(row, running.result(), row.learner.observe(x, labels))


@EVERY
@few
@given(sizes=st.lists(st.integers(0, 30), min_size=2, max_size=5), seed=seeds)
def test_forgetting_is_retraining_without(row, sizes, seed):
    x, labels = samples(sum(sizes), D0, C, seed)
    held = [row.learner.observe(*part) for part in zip(x.split(sizes), labels.split(sizes), strict=True)]
    rest = row.learner.observe(x[sizes[0] :], labels[sizes[0] :])
    agree(row, total(held) - held[0], rest)


@EVERY
def test_the_same_samples_give_the_same_bits_twice(row, device):
    x, labels = samples(50, D0, C, device=device)
    a, b = row.learner.observe(x, labels), row.learner.observe(x.clone(), labels.clone())
    assert a.sha256 == b.sha256
    assert torch.equal(row.learner.fit(a, RIDGE), row.learner.fit(b, RIDGE))


@EVERY
def test_devices_agree(row, device):
    here = row.learner.observe(*samples(50, D0, C))
    there = unpack(pack(row.learner.observe(*samples(50, D0, C, device=device))))
    agree(row, there, here)


@EVERY
@pytest.mark.parametrize("n", [0, 1, 5, 100])
def test_records_come_back_from_the_wire(row, n):
    sent = row.learner.observe(*samples(n, D0, C))
    arrays, _ = row.learner.train({}, {}, *samples(n, D0, C), seed=0)
    agree(row, unpack(from_record(to_record(arrays))), sent)


@EVERY
def test_every_client_speaks_of_every_class(row):
    x, _ = samples(30, D0, C)
    one_class = row.learner.observe(x, torch.full((30,), C - 1))
    nobody = row.learner.observe(x[:0], torch.zeros(0, dtype=torch.int64))
    for found in (one_class, nobody):
        assert found.num_classes == C == row.learner.fit(found, RIDGE).shape[1]
    left = one_class + row.learner.observe(x, torch.zeros(30, dtype=torch.int64)) - one_class
    assert left.num_classes == C and left.class_counts.tolist() == [30, 0, 0, 0]
    assert not row.learner.fit(left, RIDGE)[:, 1:].any()


@EVERY
def test_a_client_without_samples_changes_nothing(row):
    nobody = row.learner.observe(*samples(0, D0, C))
    everyone = row.learner.observe(*samples(40, D0, C))
    assert nobody.count == 0 and not row.learner.fit(nobody, RIDGE).any()
    agree(row, everyone + nobody, everyone)
    agree(row, nobody + everyone, everyone)
    agree(row, everyone - nobody, everyone)


@EVERY
def test_it_learns(row):
    x, _ = samples(400, D0, C)
    labels = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    weight = row.learner.fit(row.learner.observe(x[:300], labels[:300]), RIDGE)
    predicted = row.learner.predict(weight, x[300:])
    assert float((predicted == labels[300:]).double().mean()) > 0.8
    sent = weight.numpy()
    sent.setflags(write=False)  # as an array from a file or a message may be
    scores = row.learner.scores({"weight": sent}, row.learner.features(x[300:]))
    assert torch.equal(predicted, scores.argmax(1))


SPOILT = {
    "a label too large": (lambda x, y: (x, y + C), f"label {C}"),
    "a negative label": (lambda x, y: (x, y - C), "label -4"),
    "labels that are no integers": (lambda x, y: (x, y + 0.5), "labels have type"),
    "too few labels": (lambda x, y: (x, y[1:]), "labels have shape"),
    "a feature that is NaN": (lambda x, y: (x * float("nan"), y), "NaN or infinite"),
    "an infinite feature": (lambda x, y: (x / 0.0, y), "NaN or infinite"),
    "a vector of features": (lambda x, y: (x[:, 0], y), "features have shape"),
}


@EVERY
@pytest.mark.parametrize("name", SPOILT)
def test_bad_samples_are_refused_and_nothing_changes(row, name):
    spoil, message = SPOILT[name]
    x = torch.ones(8, D0, dtype=torch.float64) / 2
    labels = torch.arange(8) % 1
    before = row.learner.observe(x, labels)
    digest = before.sha256
    for call in (row.learner.observe, lambda x, y: row.learner.train({}, {}, x, y, 0)):
        with pytest.raises(BadInput, match=message):
            call(*spoil(x, labels))
    assert before.sha256 == digest == row.learner.observe(x, labels).sha256


@EVERY
def test_another_width_or_class_count_is_refused_and_nothing_changes(row):
    mine = row.learner.observe(*samples(8, D0, C))
    digest = mine.sha256
    others = [over(mine, range(C), C + 1)]
    if row.learner.features(samples(1, D0)[0]).shape[1] == D0:
        others.append(row.learner.observe(*samples(8, D0 + 1, C)))
    for other in others:
        for combine in (lambda a, b: a + b, lambda a, b: a - b):
            with pytest.raises(BadInput, match="cannot combine statistics over"):
                combine(mine, other)
    assert mine.sha256 == digest


@EVERY
def test_features_of_any_float_type_are_accepted(row):
    x, labels = samples(8, D0, C)
    for kind in (torch.float16, torch.float32, torch.bfloat16):
        found = row.learner.observe(x.to(kind), labels)
        agree(row, found, row.learner.observe(x.to(kind).to(torch.float64), labels))
    assert all(isinstance(array, np.ndarray) for array in pack(row.learner.observe(x, labels)).values())
