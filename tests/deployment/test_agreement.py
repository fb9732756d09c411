"""A deployment is held to what its numbers promise: bits, a tolerance of float64 or of float32, or shapes."""

import numpy as np
import pytest

from experiments.deploy.agreement import FLOAT32, check_agreement, float64_tolerance
from fedlab.errors import BadInput

W = {"weight": np.linspace(-1, 1, 12).reshape(4, 3), "bias": np.ones(3)}
CONDITION = 2e6  # of the digits: 10 eps times this is 4.4e-9


def result(name, statistics="s", privacy=None):
    return {
        "statistics_sha256": statistics and statistics + name,
        "head_sha256": "h" + name,
        "privacy": privacy,
        "accuracy": 0.9 + (name == "deployed") / 1000,  # a sample near the border may fall either way
        "metrics": {"condition": CONDITION},
    }


def check(error, mode, statistics="s", privacy=None, model=None):
    model = model or {name: array * (1 + error) for name, array in W.items()}
    results = (result(name, statistics, privacy) for name in ("deployed", "simulated"))
    return check_agreement(*results, model, W, mode)


def test_float64_promises_a_tolerance_that_grows_with_the_condition():
    assert float64_tolerance(1.0) == 1e-10 and float64_tolerance(CONDITION) == pytest.approx(4.44e-9, rel=1e-3)
    assert check(1e-9, "float64").startswith("mode=float64 rounds") and "4.4e-09 is allowed" in check(1e-9, "float64")
    with pytest.raises(BadInput, match=r"mode=float64 promises .* 4\.4e-09 at most, .* by 5\.0e-09"):
        check(5e-9, "float64")


@pytest.mark.parametrize("mode", ["exact", None])
def test_exact_promises_bits(mode):
    with pytest.raises(BadInput, match="promises bits, and statistics_sha256, head_sha256 differ"):
        check(0.0, mode)
    same = result("same")
    assert check_agreement(same, same, W, W, mode) == "the same head, to the bit"
    with pytest.raises(BadInput, match="promises bits, and head_sha256 differ"):
        check_agreement({**same, "head_sha256": "another"}, same, W, W, mode)


def test_averaged_models_keep_half_of_float32s_digits():
    assert "averaging rounds" in check(FLOAT32 / 2, None, statistics=None)
    for error in (2 * FLOAT32, float("nan")):
        with pytest.raises(BadInput, match="averaging promises"):
            check(error, None, statistics=None)


def test_noise_promises_shapes():
    assert "never twice the same" in check(1.0, "exact", privacy={"epsilon": 1.0})
    with pytest.raises(BadInput, match="has shapes"):
        check(0.0, "exact", privacy={"epsilon": 1.0}, model={"weight": W["weight"]})
