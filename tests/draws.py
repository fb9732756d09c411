"""Random data for the tests of the mathematics."""

import torch
from hypothesis import strategies as st

from fedlab.stats import FixedPoint, GramStats, one_hot

FIXED = FixedPoint(limit=1.0, bits=12)


def samples(n, d, c=3, seed=0, device="cpu"):
    """n feature rows, uniform in [-1, 1], and their labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, d, generator=generator, dtype=torch.float64) * 2 - 1
    return x.to(device), torch.randint(c, (n,), generator=generator).to(device)


def statistics(n, d, c=3, seed=0, fixed=None, device="cpu"):
    x, labels = samples(n, d, c, seed, device)
    return GramStats.from_batch(x, one_hot(labels, c), fixed)


def same(a, b):
    """Equal bits in everything that statistics say."""
    return (
        torch.equal(a.gram, b.gram)
        and torch.equal(a.cross, b.cross)
        and torch.equal(a.class_counts, b.class_counts)
        and (a.scale, a.saturated, a.count) == (b.scale, b.saturated, b.count)
    )


def gap(a, b):
    """Largest difference of two float64 statistics, relative to the largest entry."""
    size = max(1.0, float(a.gram.abs().max()), float(a.cross.abs().max()))
    assert torch.equal(a.class_counts, b.class_counts)
    return max(float((a.gram - b.gram).abs().max()), float((a.cross - b.cross).abs().max())) / size


# A few clients' sizes, some empty, some with more samples than features; and where the randomness starts.
client_sizes = st.lists(st.integers(0, 12), min_size=1, max_size=6)
seeds = st.integers(0, 2**31)
