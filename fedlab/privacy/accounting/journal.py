"""A file of JSON lines that is written ahead: a line is on the disk before anyone acts upon it.

    append   write, fsync, and only then return; what cannot be written whole is taken back
    open     a last line without its end was never acted upon, for its `append` never returned: it is cut off

Any other line that cannot be read is damage, and refused: a ledger must not forget. The file belongs to one
process at a time, until it closes it or dies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedlab.errors import BadInput
from fedlab.tracking.append_log import AppendLog, cannot_write

Line = dict[str, Any]
_REMEDY = "Nothing was released: free some space or choose a writable folder"


class Journal:
    """A journal that is open for writing.

    Args:
        path: File; it and its folders are made.

    Attributes:
        lines: Lines that stood in it when it was opened.

    Raises:
        BadInput: Another process has it, it cannot be written, or it is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._log = AppendLog(path, sync=True)
            try:
                self._log.lock()
                self.lines = read(path)
                self._log.cut()
            except BaseException:
                self._log.close()
                raise
        except BlockingIOError as error:
            raise BadInput(
                f"{path} is kept by another process or ledger: two that count apart would both count too little. "
                "Wait for its end, or close it first"
            ) from error
        except OSError as error:
            raise cannot_write(path, error, _REMEDY) from error

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Put lines on the disk; when this returns they are there, whatever happens to the process.

        Raises:
            BadInput: They cannot be written; the file is as it was.
        """
        data = b"".join(json.dumps(line, allow_nan=False).encode() + b"\n" for line in lines)
        if self._log.closed:
            raise BadInput(f"{self.path} is closed: nothing more can be released")
        try:
            self._log.append(data)
        except OSError as error:
            raise cannot_write(self.path, error, _REMEDY) from error

    def close(self) -> None:
        """Let others have it. Closing twice is harmless."""
        self._log.close()


def read(path: Path) -> list[Line]:
    """Return the whole lines of a journal, whoever has it; a BadInput where it cannot be read, or is damaged."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
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
