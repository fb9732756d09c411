"""What a generator wrote is written once: tuning it again would give the same texts, hours later.

key = sha256(what the noise was drawn for: base model, generator, codes, texts, seed; what is asked for)

With seeded noise the texts are a function of these, so a sweep over what the server makes of them tunes each generator
once. Noise of the operating system is a fresh draw every time: nothing is kept of it. The file holds what was written
and the hash, and no private text; the device is not in the key, as with features.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from fedlab.cache_folder import cache_folder
from fedlab.errors import BadInput
from fedlab.llm.tuning.sampling import Written
from fedlab.tracking.run_directory import write_atomically

_LOG = logging.getLogger("fedlab")


def recalled(write: Callable[[], Written], *parts: object) -> Written:
    """Return what was written under these parts before, or write and keep it.

    Args:
        write: Function that tunes and samples.
        parts: Values that decide what is written, all of them, whose JSON tells them apart.
    """
    key = hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()
    path = cache_folder() / "written" / f"{key}.json"
    written = _read(path)
    if written is None:
        written = write()
        try:
            write_atomically(path, json.dumps(asdict(written)).encode())
        except BadInput as error:  # costs the next run its time, and this one nothing
            _LOG.warning("what a generator wrote is not kept: %s", error)
    return written


def _read(path: Path) -> Written | None:
    try:
        return Written(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        _LOG.warning("%s cannot be read (%s): its texts are written again", path, error)
        return None
