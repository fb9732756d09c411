"""Settings checked before they are used: one message a kind of limit, with the value, the limit and the remedy.

    rate = checks.share("rate", rate)                          must lie in [0, 1]
    steps = checks.integer("steps", steps, least=1)            must be a whole number >= 1
    lr = checks.number("learning_rate", lr, above=0)           must be a finite number > 0
    mode = checks.choice("mode", mode, ("exact", "float64"))   unknown mode 'exat': ...; did you mean 'exact'?

Each returns the value, so that it can stand where the value is used.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Real

from fedlab.errors import BadInput, unknown


def integer(name: str, value: object, least: int | None = None, most: int | None = None, remedy: str = "") -> int:
    """Return `value` as an int.

    Args:
        name: Name of the setting, as the user calls it.
        value: Value of the setting; a bool is no integer.
        least, most: Limits, both allowed; None is no limit.
        remedy: Remedy for the user, after a colon.

    Raises:
        BadInput: No integer, or outside the limits.
    """
    try:
        whole = None if isinstance(value, bool) else operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        whole = None
    if whole is None or (least is not None and whole < least) or (most is not None and whole > most):
        raise _refused(name, value, "a whole number", _interval(None, least, None, most), remedy)
    return whole


def number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    remedy: str = "",
) -> float:
    """Return `value`, a finite number; `above` and `below` are limits that it must not reach.

    Raises:
        BadInput: No number, NaN or infinite, or outside the limits.
    """
    x = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if (
        not math.isfinite(x)
        or (above is not None and not x > above)
        or (least is not None and not x >= least)
        or (below is not None and not x < below)
        or (most is not None and not x <= most)
    ):
        raise _refused(name, value, "a finite number", _interval(above, least, below, most), remedy)
    return value  # pyright: ignore[reportReturnType]


def share(name: str, value: object, remedy: str = "0 is none, 0.5 half, 1 all") -> float:
    """Return `value`, a number in [0, 1].

    Raises:
        BadInput: It is none.
    """
    return number(name, value, least=0, most=1, remedy=remedy)


def choice(name: str, value: object, known: Iterable[str]) -> str:
    """Return `value`, one of the known words.

    Raises:
        BadInput: It is none of them; the message has the known ones and the closest.
    """
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        raise unknown(name, value, known)
    return value


def _refused(name: str, value: object, kind: str, interval: str, remedy: str) -> BadInput:
    return BadInput(f"{name}={value!r} must be {kind}{interval}" + (f": {remedy}" if remedy else ""))


def _interval(above: float | None, least: float | None, below: float | None, most: float | None) -> str:
    low = None if above is None and least is None else (f"> {above}" if least is None else f">= {least}")
    high = None if below is None and most is None else (f"< {below}" if most is None else f"<= {most}")
    if low and high:
        left = f"({above}" if least is None else f"[{least}"
        right = f"{below})" if most is None else f"{most}]"
        return f" in {left}, {right}"
    return f" {low or high}" if low or high else ""
