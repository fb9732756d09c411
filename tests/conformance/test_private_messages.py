"""Every field of every message that a client of a private method sends, and why it may be sent.

A field is public (the same for every client, whatever its samples), the partition (the client's own number), noised
(drawn anew with every seed), masked (uniform), sealed (keys, shares and digests of them), or meant for a server that
is trusted, which noises it before anything is released. What is not in the table fails, and so does a field that is
not what the table says.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message
from scipy.stats import chi2

import fedlab
from fedlab.engine.messages.records import from_record
from fedlab.engine.simulation.host import Host

STATISTICS = {"kind": "public", "shape": "public", "scale": "public", "variance": "public"}
SECURE = {
    "who": "partition",
    "publics": "sealed",
    "sealed": "sealed",
    "digests": "sealed",
    "commitment": "sealed",
    "masked": "masked",
    "digest": "sealed",
    "layout": "public",
    "shares": "sealed",
}


def under(record: str, fields: dict[str, str]) -> dict[str, str]:
    return {f"{record}/{name}": how for name, how in fields.items()}


@dataclass(frozen=True)
class Case:
    """A private method, what chooses it, and what its clients may say."""

    name: str
    method: str
    accounted: dict[str, str]
    settings: dict[str, object] = field(default_factory=dict)
    rounds: int = 1


CASES = [
    Case("central", "dp_afl", under("arrays", {**STATISTICS, "gram": "trusted", "cross": "trusted"})),
    Case(
        "local",
        "dp_afl",
        under("arrays", {**STATISTICS, "gram": "noised", "cross": "noised"}),
        {"privacy.trust": "local"},
    ),
    Case(
        "local, client",
        "dp_afl",
        under("arrays", {**STATISTICS, "gram": "noised", "cross": "noised"}),
        {"privacy.trust": "local", "privacy.unit": "client"},
    ),
    Case("distributed", "dp_secagg_afl", under("arrays", SECURE)),
    Case("secure", "secagg_afl", under("arrays", SECURE)),
    Case(
        "dp-sgd",
        "dp_sgd",
        {**under("arrays", {"weight": "noised", "bias": "noised"}), "metrics/num-examples": "public"},
        {"methods.dp_sgd.rounds": 1},
    ),
    Case(
        "dp-fedavg",  # its server is trusted with updates; of the metrics it reads none, and passes none on
        "dp_fedavg",
        {
            **under("arrays", {"weight": "trusted", "bias": "trusted"}),
            **under("metrics", {"num-examples": "trusted", "train-loss": "trusted"}),
        },
        {"rounds": 1, "cohort.fraction": 1.0, "privacy.unit": "client"},
    ),
]


def heard(monkeypatch: pytest.MonkeyPatch, case: Case, **settings: object) -> list[dict[str, np.ndarray]]:
    """Run a method on six clients and return all that each said, message by message: 'record/key' to its value."""
    said: list[dict[str, np.ndarray]] = []
    answer = Host._handle

    def listening(self: Host, message: Message, first_try: bool) -> Message:
        reply = answer(self, message, first_try)
        assert not reply.has_error(), reply.error
        fields: dict[str, np.ndarray] = {}
        for name, record in reply.content.items():
            values = from_record(record) if isinstance(record, ArrayRecord) else dict(record.items())
            fields |= {f"{name}/{key}": np.asarray(value) for key, value in values.items()}
        said.append(fields)
        return reply

    with monkeypatch.context() as patch:
        patch.setattr(Host, "_handle", listening)
        patch.setattr(Host, "_attempt", lambda self, *asked: None)  # each client by itself
        common = {"methods": [case.method], "clients": 6, "features.expansion.width": 16, "analytic.bits": 8}
        fedlab.simulate("afl_digits", **{**common, **case.settings, **settings})
    return said


def by_field(said: list[dict[str, np.ndarray]]) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for fields in said:
        for name, value in fields.items():
            found[name].append(value)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_field_is_accounted_for(monkeypatch: pytest.MonkeyPatch, case: Case):
    found = by_field(heard(monkeypatch, case))
    assert set(found) == set(case.accounted)
    # Another cut of the samples: other clients hold other ones, and of the same seed of noise.
    others = by_field(heard(monkeypatch, case, **{"partition.alpha": 100.0}))
    for name, how in case.accounted.items():
        values = found[name]
        sizes = {(value.shape, value.dtype) for value in [*values, *others[name]]}
        assert len(sizes) == 1, f"{name} differs in size from client to client: {sizes}"
        if how == "public":
            assert len({value.tobytes() for value in [*values, *others[name]]}) == 1, name
        elif how == "partition":
            assert {int(value[0]) for value in values} == set(range(6))
        elif how == "masked":
            assert_uniform(np.concatenate([value.view(np.uint8) for value in values]))
        elif how == "noised":
            assert_noised(values, by_field(heard(monkeypatch, case, **other_noise(case)))[name])


def other_noise(case: Case) -> dict[str, object]:
    """The same samples and random features under noise of another seed."""
    return {"entropy": "os"}


def assert_uniform(octets: np.ndarray) -> None:
    counts = np.bincount(octets, minlength=256)
    expected = len(octets) / 256
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert chi2.sf(statistic, 255) > 1e-6  # a sound mask fails once in a million runs, and the seed is fixed


def assert_noised(values: list[np.ndarray], others: list[np.ndarray]) -> None:
    """Every entry of every client moves when only the noise is drawn anew."""
    for value, other in zip(values, others, strict=True):
        assert bool((value != other).all())


def test_what_is_not_accounted_for_is_found(monkeypatch: pytest.MonkeyPatch):
    """AFL itself, held against the table of its private form: its counts and its sizes are found."""
    case = Case("plain", "afl", CASES[0].accounted)
    found = by_field(heard(monkeypatch, case))
    assert {"arrays/class_counts", "arrays/classes"} <= set(found) - set(case.accounted)


def test_a_field_that_is_not_noised_is_found(monkeypatch: pytest.MonkeyPatch):
    """What a trusted server gets does not move with the noise: the check that it does fails."""
    case = CASES[0]
    found, others = (by_field(heard(monkeypatch, case, **more)) for more in ({}, other_noise(case)))
    with pytest.raises(AssertionError):
        assert_noised(found["arrays/gram"], others["arrays/gram"])
