"""What clients would have sent is counted without packing it: the count is what packing gives."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.stats import FixedPoint, GramStats, one_hot, pack, packed_bytes


def as_sent(stats: GramStats) -> int:
    total = 0
    for array in pack(stats).values():
        file = io.BytesIO()
        np.save(file, array)
        total += len(file.getvalue())
    return total


@pytest.mark.parametrize("exact", [True, False])
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    d=st.integers(1, 20),
    c=st.sampled_from([1, 3, 300]),
    bits=st.sampled_from([4, 12, 16]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_the_count_is_what_packing_gives(exact, sizes, d, c, bits, seed):
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    x, labels = torch.from_numpy(rng.uniform(-1, 1, (n, d))), torch.from_numpy(rng.integers(0, c, n))
    fixed = FixedPoint(1.0, bits)
    h = fixed.encode(x)[0] if exact else x
    scale = fixed.scale if exact else None
    clients = [
        GramStats.from_integers(rows, one_hot(some, c), scale)
        for rows, some in zip(h.split(sizes), labels.split(sizes), strict=True)
    ]
    counted = packed_bytes(h.numpy(), labels.numpy(), sizes, c, exact)
    assert counted == sum(as_sent(client) for client in clients)
