"""A file of JSON lines that is written ahead: a line is on the disk before anyone acts upon it.

    append   write, fsync, and only then return; what cannot be written whole is taken back
    open     a last line without its end was never acted upon, for its `append` never returned: it is cut off

Any other line that cannot be read is damage, and refused: a ledger must not forget. The file belongs to one
process at a time, until it closes it or dies.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedlab.errors import BadInput

Line = dict[str, Any]


class Journal:
    """A journal that is open for writing.

    Parameters
    ----------
    path
        The file; it and its folders are made.

    Attributes
    ----------
    lines
        What stood in it when it was opened.

    Raises
    ------
    BadInput
        Another process has it, it cannot be written, or it is damaged.
    """

    def __init__(self, path: Path):
        self.path, self._file = path, -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._lock()
            data = path.read_bytes()
            self.lines = parse(path, data)
            os.ftruncate(self._file, data.rfind(b"\n") + 1)
            _sync_folder(path.parent)
        except OSError as error:
            self.close()
            raise _refused(path, error) from error
        except BadInput:
            self.close()
            raise

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Put lines on the disk; when this returns they are there, whatever happens to the process.

        Raises
        ------
        BadInput
            They cannot be written; the file is as it was.
        """
        data = b"".join(json.dumps(line, allow_nan=False).encode() + b"\n" for line in lines)
        if self._file < 0:
            raise BadInput(f"{self.path} is closed: nothing more can be released")
        former: int | None = None
        try:
            former = os.fstat(self._file).st_size
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            if former is not None:
                with suppress(OSError):
                    os.ftruncate(self._file, former)
            raise _refused(self.path, error) from error

    def close(self) -> None:
        """Let others have it. Closing twice is harmless."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(
                f"{self.path} is kept by another process or ledger: two that count apart would both count too "
                "little. Wait for its end, or close it first"
            ) from error
        except OSError:  # a file system without locks: nobody can be asked
            pass


def read(path: Path) -> list[Line]:
    """Return the whole lines of a journal, whoever has it, and change nothing.

    Raises
    ------
    BadInput
        It cannot be read, or is damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    return parse(path, data)


def parse(path: Path, data: bytes) -> list[Line]:
    """Return the whole lines of a journal's content; `path` is named if one is damaged."""
    lines = []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise BadInput(
                f"{path}, line {number}, is damaged, and what it said of a release cannot be known: restore the "
                "file from a copy, or count its data as spent"
            )
        lines.append(content)
    return lines


def _sync_folder(folder: Path) -> None:
    # A new file's name is in its folder, and that is written by itself.
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # some file systems cannot, and need not
            os.fsync(handle)
    finally:
        os.close(handle)


def _refused(path: Path, error: OSError) -> BadInput:
    reason = error.strerror or str(error)
    return BadInput(
        f"cannot write {path}: {reason}. Nothing was released: free some space or choose a writable folder"
    )
