"""What a computation will take, said and refused before it is taken."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from fedlab.errors import BadInput

SMALL = 2**28
"""Below 256 MiB nothing is checked."""
SHARE = 0.8
"""Of what is available: the rest is for the solve's copies, and for whoever else runs here."""
_LOG = logging.getLogger("fedlab")


def available() -> int:
    """Return the bytes that this process may still take without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:  # no Linux
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(num_bytes: int, what: str, remedy: str, limit: int | None = None) -> None:
    """Say what is about to be taken, and refuse what would not fit.

    Args:
        num_bytes: Bytes that will be taken.
        what: Purpose: 'the sums of 8192 features'.
        remedy: Remedy: what else could be done.
        limit: Largest number of bytes; None for a share of what is available.

    Raises:
        BadInput: It would not fit.
    """
    if limit is None and num_bytes < SMALL:
        return
    room = int(SHARE * available()) if limit is None else limit
    _LOG.info("%s: %s of %s", what, human(num_bytes), human(room))
    if num_bytes > room:
        raise BadInput(f"{what} would take {human(num_bytes)} of {human(room)}: {remedy}")


def human(num_bytes: int) -> str:
    """'1.5 GiB'."""
    power = min(max(int(num_bytes).bit_length() - 1, 0) // 10, 4)
    return f"{num_bytes / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
