"""What is drawn by a seed: random numbers for each purpose by itself, and settings checked before they are used."""

from __future__ import annotations

import operator
from numbers import Real

import numpy as np

from fedlab.errors import BadInput


def rng_for(seed: int, purpose: str) -> np.random.Generator:
    """Return random numbers for one purpose: a run has one seed, and what it draws must have nothing in common.

    Raises
    ------
    BadInput
        A seed below 0.
    """
    check_integer("seed", seed, least=0)
    return np.random.default_rng([seed, *purpose.encode()])


def check_integer(name: str, value: int, least: int) -> None:
    """Refuse what is no integer, or too small.

    Raises
    ------
    BadInput
        Names the setting, its value and the limit.
    """
    try:
        operator.index(value)
    except TypeError:
        raise BadInput(f"{name}={value!r} is not an integer: say {name}={max(least, 5)}") from None
    if value < least:
        raise BadInput(f"{name}={value} must be at least {least}")


def check_share(name: str, value: float) -> None:
    """Refuse what is no share.

    Raises
    ------
    BadInput
        Outside [0, 1].
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        raise BadInput(f"{name}={value!r} is outside [0, 1]: 0 is none, 0.5 half, 1 all")
