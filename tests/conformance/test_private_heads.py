"""The same command, the same bits, noise included: on one process, on workers, and however the samples are cut."""

from __future__ import annotations

import pytest

import fedlab

SMALL = {"features.expansion.width": 16, "analytic.bits": 8, "source.seed": 0}


def heads(methods: list[str], **settings: object) -> dict[str, str]:
    result = fedlab.simulate("afl_digits", methods=methods, **{"clients": 6, **SMALL, **settings})
    return {name: result[name]["head_sha256"] for name in methods}


@pytest.mark.slow
def test_workers_change_no_bit():
    both = ["dp_afl", "dp_secagg_afl"]
    assert heads(both) == heads(both, **{"engine": "ray", "engine.num_workers": 2})


def test_local_noise_too_adds_up_in_one_order():
    """A thousand sums of noise in float64, block by block: two runs agree to the bit."""
    settings = {"privacy.trust": "local", "clients": 300}
    assert heads(["dp_afl"], **settings) == heads(["dp_afl"], **settings)


def test_a_trusted_servers_noise_does_not_depend_on_the_partition():
    """The sums are exact and the noise is drawn for their sum: other clients hold the samples, the head stays."""
    one, same, other = (
        heads(["dp_afl"], clients=clients, **more)
        for clients, more in ((6, {}), (200, {}), (6, {"privacy.epsilon": 2.0}))
    )
    assert one == same
    assert one != other
