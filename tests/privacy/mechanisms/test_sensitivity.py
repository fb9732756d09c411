"""The stated sensitivities hold under a search for what breaks them, and are reached."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from fedlab.errors import BadInput
from fedlab.privacy.mechanisms.sensitivity import client_sensitivity, cross_sensitivity, joint_sensitivity
from fedlab.privacy.ridge.clip_and_noise import clip_rows
from fedlab.stats import FixedPoint, NoisyGram
from tests.privacy.half_vector import half_vector

ROUNDING = 1e-9  # of sums of d^2 products in float64
BOUNDS = [(1.0, 1.0), (0.5, 1.0), (3.0, 1.0), (1.0, 2.0), (0.4, 1.0)]


def of_sample(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    gram, cross = torch.from_numpy(np.outer(x, x)), torch.from_numpy(np.outer(x, y))
    return half_vector(NoisyGram(gram, cross))


def distance(x, y, z, w) -> float:
    return float(np.linalg.norm(of_sample(x, y) - of_sample(z, w)))


@pytest.mark.parametrize(("clip", "target"), BOUNDS)
@pytest.mark.parametrize("relation", ["add_remove", "replace_one"])
def test_search_finds_the_bound_and_nothing_beyond(clip: float, target: float, relation: str):
    """Over rows and targets of any direction, d = 4, c = 3: the largest distance is the stated one."""
    d, c = 4, 3
    rng = np.random.default_rng(0)

    def inside(vector: np.ndarray, bound: float) -> np.ndarray:
        norm = np.linalg.norm(vector)
        return vector * min(1.0, bound / max(norm, 1e-12))

    def moved(free: np.ndarray) -> float:
        x, z, y, w = np.split(free, [d, 2 * d, 2 * d + c])
        x, z, y, w = inside(x, clip), inside(z, clip), inside(y, target), inside(w, target)
        if relation == "add_remove":
            return -float(np.linalg.norm(of_sample(x, y)))
        return -distance(x, y, z, w)

    starts = rng.normal(size=(12, 2 * d + 2 * c)) * 2 * max(clip, target)
    found = max(-minimize(moved, start, method="L-BFGS-B").fun for start in starts)
    stated = joint_sensitivity(clip, target, relation)
    assert found <= stated + ROUNDING
    assert found >= 0.995 * stated  # the search stops when its steps become small


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(3, 12), st.floats(0.3, 4.0))
@settings(max_examples=150, deadline=None)
def test_quantised_and_clipped_rows_keep_to_it(seed: int, d: int, bits: int, size: float):
    """Rounding first and clipping then: no sample moves the sums by more, whatever the word length."""
    rng = np.random.default_rng(seed)
    fixed = FixedPoint(1.0, bits)
    clip = max(0.7, 1.001 / fixed.scale)
    raw = torch.from_numpy(rng.normal(size=(2, d)) * size)
    rows = clip_rows(fixed.encode(raw)[0], clip, fixed.scale) / fixed.scale
    assert bool((rows.norm(dim=1) <= clip).all())
    labels = np.eye(3)[rng.integers(0, 3, 2)]
    x, z = rows.numpy()
    assert np.linalg.norm(of_sample(x, labels[0])) <= joint_sensitivity(clip) * (1 + ROUNDING)
    assert distance(x, labels[0], z, labels[1]) <= joint_sensitivity(clip, 1.0, "replace_one") * (1 + ROUNDING)


def test_rounding_after_clipping_would_break_it():
    """Why the order matters: a clipped row that is rounded afterwards can pass the bound."""
    rng = np.random.default_rng(1)
    fixed = FixedPoint(1.0, 8)
    rows = torch.from_numpy(rng.normal(size=(2000, 200)))
    rounded = fixed.decode(fixed.encode(clip_rows(rows, 1.0))[0])
    assert float(rounded.norm(dim=1).max()) > 1.0


def test_limits_of_the_formulas():
    """At B = T = 1: sqrt 2 and sqrt 4.5; at T^2 = 2 B^2 both forms of the second agree; C alone and clients."""
    assert joint_sensitivity(1.0) == pytest.approx(math.sqrt(2))
    assert joint_sensitivity(1.0, 1.0, "replace_one") == pytest.approx(math.sqrt(4.5))
    b = 1 / math.sqrt(2)
    assert joint_sensitivity(b, 1.0 + 1e-12, "replace_one") == pytest.approx(
        joint_sensitivity(b, 1.0 - 1e-12, "replace_one")
    )
    assert cross_sensitivity(2.0) == 2.0
    assert cross_sensitivity(2.0, 1.0, "replace_one") == 4.0
    assert client_sensitivity(3.0) == 3.0
    assert client_sensitivity(3.0, "replace_one") == 6.0


@pytest.mark.parametrize("clip", [0.0, -1.0, math.inf, math.nan])
def test_no_bound_no_sensitivity(clip: float):
    with pytest.raises(BadInput, match="clip="):
        joint_sensitivity(clip)
    with pytest.raises(BadInput, match="clip="):
        client_sensitivity(clip)


def test_unknown_relation():
    with pytest.raises(BadInput, match="add_remove"):
        joint_sensitivity(1.0, 1.0, "swap")
