"""The audit of a client's generator: it finds what is there without noise, and nothing at epsilon 8."""

import math

import pytest

import fedlab
from fedlab.errors import BadInput

pytest.importorskip("opacus", reason="extra 'llm' is not installed")

CHANCE = 1 / math.log(2)
"""Mean exposure of a secret that was never there; one exposure's deviation is the same number."""


@pytest.mark.slow
def test_noise_hides_what_a_generator_without_it_gives_away():
    result = fedlab.simulate("fdkt_audit")
    noised, plain = result.values["study"]["rows"]
    assert (noised["epsilon"], plain["epsilon"]) == (8.0, None)
    slack = 4 * CHANCE / math.sqrt(8)
    assert plain["exposure"] > CHANCE + slack and plain["at least"] > 0.9
    for row in (noised, plain):
        assert row["exposure of others"] < CHANCE + slack
    assert noised["exposure"] < CHANCE + slack and noised["secrets uploaded"] == 0
    assert noised["at least"] < 0.5 < noised["AUC allowed"]
    assert result.kinds == ["exposure"] and result.plot("exposure").axes


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"study.canaries": 0}, "study.canaries=0 must be at least 1"),
        ({"study.epsilon": []}, "audits nothing"),
        ({"methods.fdkt.generator": None, "methods.fdkt.base": None}, "has no generator to audit"),
    ],
)
def test_what_cannot_be_audited_is_said(setting, said):
    with pytest.raises(BadInput, match=said):
        fedlab.simulate("fdkt_audit", **setting)
