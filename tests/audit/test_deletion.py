"""A certificate says what changed, survives its file, and is refused where it does not follow."""

import json
from dataclasses import replace

import pytest
import torch

from fedlab.audit.deletion import TOLERANCE, DeletionCertificate, check_chain, relative
from fedlab.errors import BadInput

W = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)


def certificate(before=("s0", "h0"), after=("s1", "h1"), mode="exact", **changes):
    one = DeletionCertificate(
        kind="deletion",
        time="2026-01-01T00:00:00+00:00",
        clients=(17,),
        rows=None,
        samples=3,
        mode=mode,
        tolerance=0.0 if mode == "exact" else TOLERANCE,
        statistics_before=before[0],
        statistics_after=after[0],
        changed="c",
        head_before=before[1],
        head_after=after[1],
    )
    return replace(one, **changes)


def test_it_survives_its_file():
    for one in (certificate(), certificate(rows=(4, 9)), certificate().checked("data", "s1", "h1", W, W.clone())):
        assert DeletionCertificate.of(json.loads(json.dumps(one.values()))) == one


@pytest.mark.parametrize(
    "spoil",
    [lambda v: v.pop("clients"), lambda v: v.update(more=1), lambda v: v.update(retrained={"source": "data"})],
    ids=["missing", "unknown", "half a check"],
)
def test_what_is_no_certificate_is_refused(spoil):
    values = certificate().values()
    spoil(values)
    with pytest.raises(BadInput, match="this is no certificate"):
        DeletionCertificate.of(values)
    with pytest.raises(BadInput, match="kind 'merger'"):
        certificate(kind="merger")


def test_in_exact_mode_equal_means_equal_digests():
    same = certificate().checked("data", "s1", "h1", W, W.clone()).retrained
    assert same is not None and same.equal and same.difference == 0
    for statistics, head, weight in (("s1", "other", W), ("other", "h1", W), ("s1", "h1", W * (1 + 1e-15))):
        found = certificate().checked("data", statistics, head, weight, W).retrained
        assert found is not None and not found.equal


def test_in_float64_equal_means_within_the_tolerance():
    for error, equal in ((TOLERANCE / 2, True), (2 * TOLERANCE, False)):
        found = certificate(mode="float64").checked("data", "x", "y", W * (1 + error), W).retrained
        assert found is not None and found.equal is equal
        assert found.difference == pytest.approx(error, rel=1e-3)


def test_a_difference_is_relative_and_infinite_where_nothing_can_be_compared():
    assert relative(2 * W, W) == 1
    assert relative(W, 0 * W) == relative(W, W[:1]) == float("inf")
    assert relative(0 * W, 0 * W) == 0


def test_a_chain_has_no_gap():
    one, two = certificate(), certificate(before=("s1", "h1"), after=("s2", "h2"))
    check_chain([], "anything")
    check_chain([one, two], "h2")
    for broken in ([two, one], [one, replace(two, head_before="h9")], [one, replace(two, statistics_before="s9")]):
        with pytest.raises(BadInput, match="certificate 2 does not begin where certificate 1 ended"):
            check_chain(broken, broken[-1].head_after)
    with pytest.raises(BadInput, match="the last certificate ends with head h2, and the head is h3"):
        check_chain([one, two], "h3")


def test_people_read_who_what_and_how_sure():
    checked = certificate(rows=(4, 9), samples=2).checked("data", "s1", "h1", W, W.clone())
    told = dict(checked.lines())
    assert told["deletion"] == "client 17: 2 samples" and told["number system"] == "exact, equal bits"
    assert told["statistics"] == "s0 -> s1" and told["head"] == "h0 -> h1"
    assert told["retrained from data"] == "h1" and told["which is"] == "equal, difference 0.0e+00"
    many = dict(certificate(mode="float64", clients=(1, 2), kind="addition").lines())
    assert many["addition"] == "clients 1, 2: all of their 3 samples" and many["added"] == "c"
    assert many["number system"] == "float64, equal to 1e-09"
    assert "NOT EQUAL" in dict(certificate().checked("data", "s", "h", W, 2 * W).lines())["which is"]
