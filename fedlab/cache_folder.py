"""Where what was fetched, extracted or paid for is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `$FEDLAB_CACHE`, or `~/.cache/fedlab`."""
    named = os.environ.get("FEDLAB_CACHE") or "~/.cache/fedlab"
    return Path(os.path.expanduser(named))  # noqa: PTH111 (Path.expanduser raises without a home)
