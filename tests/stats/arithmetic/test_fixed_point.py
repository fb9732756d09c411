import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlab.errors import BadInput
from fedlab.stats import FixedPoint

finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(finite, min_size=1, max_size=20), st.floats(1e-3, 1e3), st.integers(2, 20))
def test_codes_are_whole_numbers_in_range_and_decode_to_half_a_step(values, limit, bits):
    fixed = FixedPoint(limit, bits)
    x = torch.tensor([values], dtype=torch.float64)
    q, saturated = fixed.encode(x)
    assert torch.equal(q, q.round()) and float(q.abs().max()) <= fixed.levels
    assert saturated == sum(abs(v) > limit for v in values)
    inside = x.clamp(-limit, limit)
    assert float((fixed.decode(q) - inside).abs().max()) <= 0.5 / fixed.scale * (1 + 1e-9)


@given(st.integers(2, 20))
def test_the_ends_of_the_range_are_the_largest_integers(bits):
    for limit in (0.3, 1.0, 7.7):  # 0.3 * scale is no whole number before it is rounded
        fixed = FixedPoint(limit, bits)
        q, saturated = fixed.encode(torch.tensor([[-limit, 0.0, limit]], dtype=torch.float64))
        assert q.tolist() == [[-fixed.levels, 0, fixed.levels]]
        assert saturated == 0


def test_float32_features_encode_as_their_exact_values(device):
    x = torch.rand(50, 8, generator=torch.Generator().manual_seed(0)).to(device)
    q, _ = FixedPoint().encode(x)
    again, _ = FixedPoint().encode(x.to(torch.float64))
    assert q.dtype == torch.float64 and torch.equal(q, again)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("inf"), float("nan"), 1e-300, 1e300])
def test_a_range_must_be_positive_and_its_square_a_float(limit):
    with pytest.raises(BadInput, match=r"limit=.*public range"):
        FixedPoint(limit)


@pytest.mark.parametrize("bits", [1, 21])
def test_a_word_has_2_to_20_bits(bits):
    with pytest.raises(BadInput, match=f"bits={bits}"):
        FixedPoint(1.0, bits)
