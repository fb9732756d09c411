"""Freed memory that stays with the process: fetching it anew costs more than what is done with it.

A client's arrays live for one call. The C library gives those of some megabytes back to the system, and every page
of the next client's faults in again, which on a virtual machine takes ten times as long as filling it.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of glibc's settings, from malloc.h."""
KEPT = 256 * 2**20
"""Bytes of free memory, at the top of the heap, that a process may keep."""
LARGEST = 32 * 2**20
"""Larger arrays go back at once: what they cost is not their pages. glibc takes no larger value."""


def keep_freed_memory() -> None:
    """Let this process keep what it frees, within bounds; where the C library has no such setting, do nothing."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(TRIM_THRESHOLD, KEPT)
        mallopt(MMAP_THRESHOLD, LARGEST)
