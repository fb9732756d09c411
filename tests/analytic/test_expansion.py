import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlab.analytic import Identity, RandomRBF, RandomReLU
from fedlab.analytic.expansion import _exponentials, integer_matrix
from fedlab.errors import BadInput
from fedlab.stats import FixedPoint
from tests.draws import FIXED, samples, seeds
from tests.tolerance import FLOAT64, assert_near

KINDS = {
    "identity": lambda seed=0: Identity(),
    "relu": lambda seed=0: RandomReLU(width=16, seed=seed),
    "rbf": lambda seed=0: RandomRBF(width=16, seed=seed, sigma=1.5, low=-1.0, high=1.0),
}
RANDOM = pytest.mark.parametrize("kind", ["relu", "rbf"])
EVERY = pytest.mark.parametrize("kind", KINDS)


def features(kind, n=7, d0=5, seed=0, device="cpu", bits=12):
    """Exact features as real numbers, and the samples they came from on the grid of the fixed point."""
    fixed = FixedPoint(1.0, bits)
    q, _ = fixed.encode(samples(n, d0, seed=seed, device=device)[0])
    h, unit, saturated = KINDS[kind]().integers(q, fixed)
    return h, unit, saturated, fixed.decode(q)


# -- the same map everywhere -------------------------------------------------------------------------------

IN_ANOTHER_PROCESS = """
import hashlib, torch
from fedlab.analytic import RandomRBF, RandomReLU
from fedlab.stats import FixedPoint
x = torch.linspace(-1, 1, 35, dtype=torch.float64).reshape(7, 5)
digest = hashlib.sha256()
for kind in (RandomReLU(width=16, seed=3), RandomRBF(width=16, seed=3, sigma=1.5, low=-1.0, high=1.0)):
    q, _ = FixedPoint().encode(x)
    h, unit, saturated = kind.integers(q, FixedPoint())
    digest.update(h.numpy().tobytes() + repr((unit, saturated)).encode())
print(digest.hexdigest())
"""


def test_another_process_rebuilds_the_same_map():
    digests = set()
    for hashes in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hashes, "OMP_NUM_THREADS": "1"},
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1 and len(digests.pop()) == 64


def test_the_random_numbers_are_pinned():
    # From NumPy's PCG64, whose stream is stable: a client of another version must draw the same map.
    assert integer_matrix(0, 2, 3).tolist() == [[-1060, 113, 400], [-602, 1237, -1220]]


@RANDOM
def test_the_seed_and_the_shape_decide(kind):
    x, _ = samples(7, 5)
    assert torch.equal(KINDS[kind](1)(x), KINDS[kind](1)(x))
    assert not torch.allclose(KINDS[kind](1)(x), KINDS[kind](2)(x), atol=1e-3)
    torch.manual_seed(0)
    before = torch.rand(1)
    torch.manual_seed(0)
    KINDS[kind](5)(x)
    assert torch.equal(torch.rand(1), before)  # the global state is neither read nor advanced


# -- exactness ---------------------------------------------------------------------------------------------


@EVERY
@given(n=st.integers(1, 40), seed=seeds, data=st.data())
def test_exact_rows_do_not_depend_on_their_batch(kind, n, seed, data):
    q, _ = FIXED.encode(samples(n, 5, seed=seed)[0])
    together, unit, saturated = KINDS[kind]().integers(q, FIXED)
    cut = data.draw(st.integers(0, n))
    for parts in (q.split(1), (q[:cut], q[cut:])):
        pieces = [KINDS[kind]().integers(part, FIXED) for part in parts]
        assert torch.equal(torch.cat([h for h, _, _ in pieces]), together)
        assert sum(s for _, _, s in pieces) == saturated and all(u == unit for _, u, _ in pieces)


@EVERY
@pytest.mark.parametrize("bits", [2, 8, 12, 16])
def test_exact_features_are_integers_within_the_levels(kind, bits):
    h, unit, _, _ = features(kind, n=50, bits=bits)
    assert h.dtype == torch.float64 and torch.equal(h, h.round())
    assert float(h.abs().max()) <= unit.levels and unit.bits == bits


@EVERY
def test_exact_features_are_the_same_on_every_device(kind, device):
    here, there = features(kind, n=50)[0], features(kind, n=50, device=device)[0]
    assert there.device.type == device and torch.equal(here, there.cpu())


@EVERY
@pytest.mark.parametrize("n", [0, 1, 60])
def test_exact_features_are_close_to_real_ones(kind, n):
    h, unit, saturated, x = features(kind, n)
    real = KINDS[kind]()(x)
    assert real.shape == h.shape == (n, KINDS[kind]().out_features(5)) and saturated == 0
    # Rounded to half a level; a bin of the RBF's table spans 1.3 levels at most, half of it on each side.
    assert not n or float((unit.decode(h) - real).abs().max()) <= {"rbf": 1.3}.get(kind, 0.5001) / unit.scale


@EVERY
def test_real_rows_hardly_depend_on_their_batch(kind):
    x, _ = samples(60, 5)
    together = KINDS[kind]()(x)
    alone = torch.cat([KINDS[kind]()(row) for row in x.split(1)])
    assert_near(together, alone, 3 * 5, FLOAT64)


# -- each map ----------------------------------------------------------------------------------------------


def test_identity_is_the_identity(device):
    x, _ = samples(4, 3, device=device)
    assert torch.equal(Identity()(x), x) and Identity().out_features(3) == 3


def test_relu_is_a_clipped_product_with_bounded_weights():
    x, _ = samples(30, 6)
    result = RandomReLU(width=400, seed=1)(x)
    assert float(result.min()) == 0.0 and 0.3 < float((result > 0).double().mean()) < 0.7
    # relu(B) - relu(-B) = B
    eye = torch.eye(6, dtype=torch.float64)
    weights = RandomReLU(width=400, seed=1)(eye) - RandomReLU(width=400, seed=1)(-eye)
    assert 0.99 * 6**-0.5 < float(weights.abs().max()) <= 6**-0.5
    assert_near(result, (x @ weights).clamp(min=0), 3 * 6, FLOAT64)


def test_relu_counts_what_saturates():
    # All features at the limit and aligned with a column of B pass the public range 2 limit.
    d0 = 64
    aligned = integer_matrix(0, d0, 16)[:, :1].sign().T * FIXED.levels
    h, unit, saturated = RandomReLU(width=16).integers(aligned.contiguous(), FIXED)
    assert saturated >= 1 and float(h.max()) == unit.levels == float(h[0, 0])


def test_rbf_is_one_at_its_centre_and_falls_with_the_distance(device):
    kernel = RandomRBF(width=4, sigma=0.5, low=-1.0, high=1.0)
    centre = kernel._centres(3)[:1]
    steps = torch.arange(8, dtype=torch.float64)[:, None] * 0.2
    x = (centre + steps * torch.tensor([1.0, 0, 0])).to(device)
    assert torch.allclose(kernel(x)[:, 0].cpu(), torch.exp(-((steps[:, 0]) ** 2) / 0.5), rtol=0, atol=1e-12)


def test_centres_lie_in_the_public_box():
    centres = RandomRBF(width=500, low=-0.25, high=0.75)._centres(4)
    assert -0.25 <= float(centres.min()) < -0.2 and 0.7 < float(centres.max()) <= 0.75


@pytest.mark.parametrize("bits", [2, 8, 12, 20])
@pytest.mark.parametrize("sigma", [0.01, 1.0, 10.0])
def test_the_exponentials_fall_from_the_largest_level_to_zero(bits, sigma):
    fixed = FixedPoint(1.0, bits)
    table, step = _exponentials(fixed.levels, sigma * fixed.scale)
    assert float(table[0]) == fixed.levels == float(table.max()) and float(table[-1]) == 0
    assert bool((table.diff() <= 0).all()) and torch.equal(table, table.round())
    assert step == 2.0 ** round(torch.tensor(step).log2().item())
    middles = (torch.arange(len(table), dtype=torch.float64) + 0.5) * step
    real = fixed.levels * torch.exp(-middles / (2 * (sigma * fixed.scale) ** 2))
    assert float((table - real)[1:].abs().max()) <= 0.5 + 1e-6


def test_narrow_kernels_and_centres_beyond_the_range_stay_finite():
    for kernel in (RandomRBF(8, sigma=1e-3, low=-1.0), RandomRBF(8, sigma=1e3, low=-5.0, high=5.0)):
        q, _ = FIXED.encode(samples(9, 3)[0])
        h, unit, _ = kernel.integers(q, FIXED)
        assert bool(torch.isfinite(h).all()) and 0 <= float(h.min()) <= float(h.max()) <= unit.levels


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomReLU(width=0), "width=0 must be"),
        (lambda: RandomRBF(width=-3), "width=-3 must be"),
        (lambda: RandomReLU(seed=-1), "seed=-1"),
        (lambda: RandomRBF(seed=-1), "seed=-1"),
        (lambda: RandomRBF(sigma=0.0), r"sigma=0\.0"),
        (lambda: RandomRBF(sigma=float("nan")), "sigma=nan"),
        (lambda: RandomRBF(sigma=1e300), r"sigma=1e\+300"),
        (lambda: RandomRBF(low=1.0, high=1.0), r"the box \[1\.0, 1\.0\] is empty"),
        (lambda: RandomRBF(high=float("inf")), "is empty"),
    ],
)
def test_a_map_that_cannot_be_is_refused(make, message):
    with pytest.raises(BadInput, match=message):
        make()


@pytest.mark.parametrize(("kernel", "d0"), [(RandomReLU(width=1), 2**24), (RandomRBF(width=1), 2**14)])
def test_more_bits_than_exact_arithmetic_holds_are_refused(kernel, d0):
    with pytest.raises(BadInput, match=rf"{d0} features overflows exact arithmetic .* lower bits"):
        kernel.integers(torch.zeros(1, d0, dtype=torch.float64), FixedPoint(1.0, 20))
