"""Public projections: fewer directions, found without looking at private rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedlab.errors import BadInput
from fedlab.privacy.ridge.projection import principal, random_directions


def test_principal_directions_hold_the_most_energy():
    rng = torch.Generator().manual_seed(0)
    stretched = torch.randn(60, 5, generator=rng, dtype=torch.float64) * torch.tensor([9.0, 5.0, 1.0, 0.1, 0.1])
    p = principal(stretched, 2)
    torch.testing.assert_close(p.T @ p, torch.eye(2, dtype=torch.float64))
    kept = float((stretched @ p).square().sum())
    for seed in range(5):  # no other plane holds more
        other = random_directions(5, 2, np.random.default_rng(seed)) / np.sqrt(5 / 2)
        assert float((stretched @ other).square().sum()) < kept
    assert kept > 0.97 * float(stretched.square().sum())


def test_random_directions_keep_lengths_on_average():
    p = random_directions(400, 100, np.random.default_rng(0))
    torch.testing.assert_close(p.T @ p, 4 * torch.eye(100, dtype=torch.float64))
    x = torch.randn(200, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = (x @ p).norm(dim=1) / x.norm(dim=1)
    assert float(lengths.mean()) == pytest.approx(1.0, abs=0.05)  # 200 ratios of standard deviation 0.06
    assert torch.equal(p, random_directions(400, 100, np.random.default_rng(0)))


@pytest.mark.parametrize("width", [0, 6, 61])
def test_no_more_directions_than_there_are(width: int):
    with pytest.raises(BadInput, match=f"width={width}"):
        principal(torch.ones(60, 5), width)
    with pytest.raises(BadInput, match=f"width={width}"):
        random_directions(5, width, np.random.default_rng(0))


def test_few_public_rows_span_few_directions():
    with pytest.raises(BadInput, match="3 public rows"):
        principal(torch.ones(3, 5), 4)
