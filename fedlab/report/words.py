"""Numbers as people read them: shares in percent, sizes in bytes, durations, the first digits of a hash.

A value that a run did not measure is a dash, never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

NOTHING = "—"


def percent(share: float | None) -> str:
    """0.9722 -> '97.22 %'."""
    return f"{100 * share:.2f} %" if _known(share) else NOTHING


def points(share: float | None, reference: float | None) -> str:
    """The difference of two shares in percentage points, signed: (0.96, 0.97) -> '-1.00'."""
    if not (_known(share) and _known(reference)):
        return NOTHING
    # Adding zero after rounding turns -0.00, which a reader takes for a loss, into +0.00.
    return f"{round(100 * (share - reference), 2) + 0.0:+.2f}"


def count(number: float | None) -> str:
    """1000 -> '1000'."""
    return f"{number:g}" if _known(number) and number < 1e5 else str(number) if _known(number) else NOTHING


def human_bytes(size: float | None) -> str:
    """1234567 -> '1.23 MB': three digits, powers of 1000."""
    if not _known(size):
        return NOTHING
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.3g} {unit}" if abs(size) < 999.5 else f"{size:.0f} {unit}"


def seconds(duration: Mapping[str, float | None] | float | None) -> str:
    """Seconds, from a number or from the `total` of a breakdown: 3.14159 -> '3.1', 0.0123 -> '0.012'."""
    total: Any = duration.get("total") if isinstance(duration, Mapping) else duration
    if not _known(total):
        return NOTHING
    return f"{total:.1f}" if total >= 1 else f"{total:.2g}"


def short_hash(digest: str | None, digits: int = 12) -> str:
    """The first digits of a hash: enough to compare by eye."""
    return digest[:digits] if digest else NOTHING


def _known(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
