"""The run directory: everything a run leaves behind, written so that a kill at any moment leaves it readable.

Events are appended whole, one JSON line each, and reach the disk's cache at once: a reader that follows the
file sees a run as it happens, and a killed run keeps every round it finished. Everything else is replaced
atomically, so a file is either the former version or the new one. A full disk is the user's to solve, so it
is told as `BadInput`, with the file and the remedy.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from fedlab.errors import BadInput
from fedlab.tracking.append_log import AppendLog, cannot_write
from fedlab.tracking.provenance import checkout, versions

Event = dict[str, Any]
_REMEDY = "Free some space or choose a writable folder, for example hydra.run.dir=FOLDER"


class RunDirectory:
    """The folder of one run and its stream of events.

    Opening a folder that already holds events continues them: a resumed run appends, and a line that a kill
    left half written is closed so that it spoils nothing that follows.

    Args:
        path: Folder of the run; it and its parents are made.

    Examples:
        >>> run = RunDirectory(Path("outputs/demo"))              # doctest: +SKIP
        >>> run.subscribe(print)                                  # doctest: +SKIP
        >>> run.event("round", method="afl", round=1, accuracy=0.97)   # doctest: +SKIP
    """

    path: Path

    def __init__(self, path: Path):
        self.path = Path(path)
        self._listeners: list[Callable[[Event], None]] = []
        # Re-entrant, for a listener may itself emit an event (a warning, say).
        self._lock = threading.RLock()
        try:
            self._events = AppendLog(self.path / "metrics.jsonl")
            self._events.end_line()
        except OSError as error:
            raise cannot_write(self.path, error, _REMEDY) from error

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def event(self, kind: str, /, **fields: object) -> None:
        """Append one event to `metrics.jsonl`, then pass it to the listeners.

        Args:
            kind: Kind of the event: method, round, result, warning, ...
            **fields: Values for JSON; numpy scalars and arrays too. NaN and infinity become null.
        """
        record = _record(kind, fields)
        line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
        with self._lock:
            if self._events.closed:
                raise BadInput(f"cannot record an event in {self.path}: the run directory is closed")
            try:
                self._events.append(line)
            except OSError as error:
                raise cannot_write(self._events.path, error, _REMEDY) from error
            self._tell(record)

    def tick(self, kind: str = "progress", /, **fields: object) -> None:
        """Pass an event to the listeners alone: progress is too frequent to be worth a line on disk.

        Args:
            kind: Kind of the event, progress or features; an `event=` among the fields says the same.
            **fields: Values, as for `event`.
        """
        with self._lock:
            self._tell(_record(kind, fields))

    def rewind(self, keep: Callable[[Event], bool]) -> None:
        """Cut `metrics.jsonl` after the last event that `keep` accepts: what came later will come again."""
        with self._lock:
            length = kept = 0
            for line in (self.path / "metrics.jsonl").read_bytes().splitlines(keepends=True):
                length += len(line)
                if any(map(keep, parse_events([line]))):
                    kept = length
            self._events.truncate(kept)

    def claim(self) -> None:
        """Keep the folder for this process until `close`, or its death, however sudden.

        Raises:
            BadInput: Another process has it.
        """
        try:
            self._events.lock()
        except BlockingIOError as error:
            raise BadInput(
                f"{self.path} belongs to a run that is still under way: wait for its end, or stop it first"
            ) from error

    def subscribe(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with each further event, in the thread that emits it."""
        self._listeners.append(listener)

    def write_json(self, name: str, value: object) -> Path:
        """Replace the file `name` by `value` as JSON, atomically; NaN and infinity become null."""
        text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=2)
        return self.write_text(name, text + "\n")

    def write_text(self, name: str, text: str) -> Path:
        """Replace the file `name` by `text` in UTF-8, atomically."""
        return self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Replace the file `name` by `data`, atomically.

        Args:
            name: Name relative to the run directory; may name a sub-folder ("figures/accuracy.png").
            data: Content, whole.

        Returns:
            Path: Where it lies.
        """
        target = self.path / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BadInput(f"cannot write {name!r}: a run writes only inside its directory {self.path}")
        write_atomically(target, data)
        return target

    def manifest(self, **extra: object) -> Path:
        """Write `manifest.json`: what ran, on what, from which sources.

        Args:
            **extra: Entries to add as they are; `seeds` belongs here.
        """
        record = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "python": platform.python_version(),
            "packages": versions(),
            "git": checkout(Path(__file__).resolve()),
            "host": platform.node(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "seeds": {},
        }
        return self.write_json("manifest.json", record | extra)

    def close(self) -> None:
        """Close the event file; what was written stays. Closing twice is harmless."""
        self._events.close()

    def _tell(self, record: Event) -> None:
        for listener in tuple(self._listeners):
            listener(record)


def plain(value: object) -> Any:
    """Values that JSON knows: numpy becomes Python, NaN and infinity become None, paths become text."""
    if value is None or isinstance(value, (str, bool)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    # Arrays and scalars of numpy and of torch alike, without importing either.
    if callable(to_python := getattr(value, "tolist", None)):
        python = to_python()
        if type(python) is not type(value):
            return plain(python)
    raise TypeError(f"cannot write {type(value).__name__} as JSON: {value!r}")


def write_atomically(target: Path, data: bytes, mode: int = 0o666) -> None:
    """Put `data` at `target` so that a reader, or a kill, meets the former file or the new one, never a part.

    Args:
        target: File to write; its folder is made.
        data: Content, whole, on the disk before the name appears.
        mode: Permissions at most, from the first byte on; the umask takes its own.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)  # noqa: PTH105 (Path.replace is the same call; the name is the promise)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(target, error, _REMEDY) from error


def remove(folder: Path, patterns: Iterable[str]) -> None:
    """Remove the files of a folder that match, and matching sub-folders if they are empty; the rest is not ours.

    Args:
        folder: Folder of the files.
        patterns: Patterns relative to it, one after the other, as `Path.glob` takes them; 'name/' is a sub-folder.
    """
    for pattern in patterns:
        for path in list(folder.glob(pattern)):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()


def parse_events(lines: Iterable[str | bytes]) -> list[Event]:
    """Read `metrics.jsonl` back. A line that a kill tore is no event and is passed over.

    Args:
        lines: Lines of the file.
    """
    events = []
    for line in lines:
        with suppress(ValueError):
            if isinstance(event := json.loads(line), dict):
                events.append(event)
    return events


def _record(kind: str, fields: Mapping[str, object]) -> Event:
    return {"time": time.time(), "event": kind, **plain(fields)}
