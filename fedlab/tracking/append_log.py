"""A file to which only whole lines are appended, whoever dies while it is written, and which one process can claim.

    append    all of it or nothing: what a full disk cuts short is taken back
    cut       an unfinished last line, which a kill left, is cut off; `end_line` closes it instead
    lock      the kernel's: a process that dies gives it back

What the lines say, what is damage, and what to do about it is for whoever writes them to know.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from fedlab.errors import BadInput

_BLOCK = 1 << 16


class AppendLog:
    """The file, open for writing; it and its folders are made.

    Args:
        path: Its place.
        sync: Whether lines, and the name of a new file, are on the disk before `append` returns.

    Raises:
        OSError: It cannot be written; so do all methods.
    """

    def __init__(self, path: Path, sync: bool = False):
        self.path, self._sync, self._file = path, sync, -1
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if sync:  # a new file's name is in its folder, and that is written by itself
            folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
            with suppress(OSError):  # some file systems cannot, and need not
                os.fsync(folder)
            os.close(folder)

    def __enter__(self) -> AppendLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether nothing more can be appended."""
        return self._file < 0

    def lock(self, wait: bool = False) -> None:
        """Keep the file for this process until it closes it; a BlockingIOError where another has it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks: nobody can be asked
            pass

    def append(self, data: bytes) -> None:
        """Put whole lines at the end, or leave the file as it was."""
        former: int | None = None
        try:
            former = os.fstat(self._file).st_size
            rest = memoryview(data)
            while rest:  # a write cut short by a full disk says so only when the rest is tried
                rest = rest[os.write(self._file, rest) :]
            if self._sync:
                os.fsync(self._file)
        except OSError:
            if former is not None:
                with suppress(OSError):
                    self.truncate(former)
            raise

    def truncate(self, length: int) -> None:
        """Cut the file after so many bytes."""
        os.ftruncate(self._file, length)

    def cut(self) -> None:
        """Cut off a last line without its end."""
        size = start = os.fstat(self._file).st_size
        newline = -1
        while start and newline < 0:
            start, end = max(0, start - _BLOCK), start
            newline = os.pread(self._file, end - start, start).rfind(b"\n")
        if start + newline + 1 != size:
            self.truncate(start + newline + 1)

    def end_line(self) -> None:
        """Close a last line without its end, so that it spoils nothing that follows."""
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            self.append(b"\n")

    def close(self) -> None:
        """Let others have it. Closing twice is harmless."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def cannot_write(path: Path, error: OSError, remedy: str) -> BadInput:
    """Return what to say of a file that cannot be written."""
    return BadInput(f"cannot write {path}: {error.strerror or error}. {remedy}")
