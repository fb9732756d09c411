"""How far apart two computations of the same numbers may be, on any processor: by the scale of what is expected.

    |fl(s) - s|  <=  c sqrt(n) u |x|'|y|      s = x'y or any chain of n roundings,  u = eps / 2

with probability 1 - 2 exp(-c^2 / 2) an entry: 1e-13 at c = 8 (Higham and Mary, 2019, SIAM J. Sci. Comput. 41(5),
https://doi.org/10.1137/18M1226312, theorem 2.4; the worst case has n for c sqrt(n)). Processors order a sum by the
width of their vectors, fuse products or not, and have an exp of their own, so two computations are apart by two such
errors: c sqrt(n) eps. The norm of the whole stands for |x|'|y|, for an entry in which terms cancel is no smaller sum.
An absolute number knows neither n nor scale: 3e-6 is 4 units in the last place of 11.88, and 30 of 1.
"""

from collections.abc import Mapping

import numpy as np

FLOAT32, FLOAT64 = (float(np.finfo(kind).eps) for kind in (np.float32, np.float64))
SPREAD = 8.0


def rounding(roundings, size=1.0, eps=FLOAT32):
    """Return how far apart two computations of something of norm `size` may be, after so many roundings."""
    return SPREAD * roundings**0.5 * eps * size


def assert_near(found, expected, roundings, eps=FLOAT32, size=None):
    """Hold arrays, or models name by name, to |found - expected| <= c sqrt(roundings) eps |expected|.

    `roundings` is about how long the longest chain is that leads to a number: terms of a sum, times layers, times
    steps. `size` stands for |expected| where a difference of larger numbers is compared.
    """
    if isinstance(expected, Mapping):
        assert list(found) == list(expected)
        assert [found[name].shape for name in found] == [expected[name].shape for name in expected]
    else:
        assert np.shape(found) == np.shape(expected)
    one, other = _flat(found), _flat(expected)
    apart = float(np.linalg.norm(one - other))
    allowed = rounding(roundings, float(np.linalg.norm(other)) if size is None else size, eps)
    assert apart <= allowed, f"apart by {apart:.2e}, and rounding by {allowed:.2e} at most"


def _flat(arrays):
    parts = arrays.values() if isinstance(arrays, Mapping) else [arrays]
    return np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in parts])
