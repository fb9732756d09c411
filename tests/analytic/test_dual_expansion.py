import hashlib

import pytest
import torch

from fedlab.analytic import DualReLUTanh, RandomReLU
from fedlab.analytic.dual_expansion import _tanh
from fedlab.analytic.expansion import integer_matrix
from fedlab.errors import BadInput
from fedlab.stats import FixedPoint
from tests.draws import FIXED, samples


def test_both_halves_are_of_one_projection(device):
    x, _ = samples(20, 5, device=device)
    h = DualReLUTanh(16, seed=2)(x)
    assert h.shape == (20, 32) == (20, DualReLUTanh(16).out_features(5))
    assert torch.equal(h[:, :16], RandomReLU(16, seed=2)(x))
    positive = h[:, :16] > 0
    assert torch.allclose(h[:, :16].tanh()[positive], h[:, 16:][positive], rtol=0, atol=1e-15)
    assert bool((h[:, 16:][~positive] <= 0).all())


@pytest.mark.parametrize("bits", [2, 8, 12, 16, 20])
def test_exact_features_are_integers_of_one_scale_close_to_real_ones(bits, device):
    fixed = FixedPoint(1.0, bits)
    q, _ = fixed.encode(samples(50, 5, device=device)[0])
    h, unit, saturated = DualReLUTanh(16).integers(q, fixed)
    assert torch.equal(h, h.round()) and float(h.abs().max()) <= unit.levels and saturated == 0
    assert torch.equal(h[:, :16], RandomReLU(16).integers(q, fixed)[0])
    assert unit == RandomReLU(16).integers(q, fixed)[1]
    bins = max(1, unit.levels // 2**16)
    error = (unit.decode(h) - DualReLUTanh(16)(fixed.decode(q))).abs()
    assert float(error[:, :16].max()) <= 0.5001 / unit.scale
    assert float(error[:, 16:].max()) <= (0.5 + 0.5 * bins + 0.5001) / unit.scale


def test_exact_rows_do_not_depend_on_their_batch_and_are_pinned():
    q, _ = FIXED.encode(samples(30, 5)[0])
    h, _, _ = DualReLUTanh(8).integers(q, FIXED)
    assert torch.equal(h, torch.cat([DualReLUTanh(8).integers(row, FIXED)[0] for row in q.split(1)]))
    # tanh is odd, and so is its half.
    assert torch.equal(DualReLUTanh(8).integers(-q, FIXED)[0][:, 8:], -h[:, 8:])
    table, _ = _tanh(2047, 3.0)
    assert table[:5].tolist() == [0, 1, 2, 3, 4] and int(table[-1]) == 679  # 2047 / 3 tanh(3) = 678.96
    assert len(hashlib.sha256(table.numpy().tobytes()).hexdigest()) == 64


@pytest.mark.parametrize("limit", [0.3, 1.0, 30.0])
def test_the_table_is_tanh_to_half_a_level(limit):
    table, step = _tanh(2047, limit)
    t = torch.arange(2048, dtype=torch.float64) * limit / 2047
    assert step == 1 and float((table - t.tanh() * 2047 / limit).abs().max()) <= 0.5 + 1e-9


def test_what_passes_the_range_is_clipped_and_counted_once():
    d0 = 64
    aligned = (integer_matrix(0, d0, 8)[:, :1].sign().T * FIXED.levels).contiguous()
    h, unit, saturated = DualReLUTanh(8).integers(aligned, FIXED)
    assert saturated >= 1 and float(h[0, 0]) == unit.levels
    assert DualReLUTanh(8).integers(aligned * 0, FIXED)[2] == 0


def test_a_map_that_cannot_be_is_refused():
    with pytest.raises(BadInput, match="width=0 must be a whole number >= 1"):
        DualReLUTanh(0)
    with pytest.raises(BadInput, match="seed=-1"):
        DualReLUTanh(seed=-1)
