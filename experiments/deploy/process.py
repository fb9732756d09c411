"""A program that runs beside this one: started in a process group of its own, and ended with all it started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from fedlab.errors import BadInput

PAINT = re.compile(r"\x1b\[[\d;]*m")
"""What colours a terminal."""
GRACE = 10.0
"""Seconds between asking a process to end and ending it."""


class Process:
    """A running program, its output in a file.

    The group is the program's own, so a Ctrl-C in the terminal reaches this process alone, which then ends
    the others in good order; and a signal to the group reaches the children of a program that was killed.

    Args:
        name: Name to speak of it by.
        command: Program and arguments.
        log: File of its output; appended to, so that a restart keeps what was said before.
        env: Environment, all of it; None for this process's.
        folder: Working directory; None for this process's.

    Raises:
        BadInput: The program is not installed.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ):
        self.name, self.command, self.log = name, list(command), log
        self._before = log.stat().st_size if log.exists() else 0
        try:
            with log.open("ab") as output:
                self._child = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=None if env is None else dict(env),
                    cwd=folder,
                    start_new_session=True,
                )
        except FileNotFoundError as error:
            raise BadInput(f"{error.filename} is not installed: {name} cannot start") from error

    @property
    def pid(self) -> int:
        """Of the program, and of its process group."""
        return self._child.pid

    @property
    def code(self) -> int | None:
        """What it ended with; None while it runs, negative for the signal that ended it."""
        return self._child.poll()

    def output(self) -> str:
        """What it has said since it was started."""
        with self.log.open("rb") as file:
            file.seek(self._before)
            return file.read().decode(errors="replace")

    def last_words(self, lines: int = 5) -> str:
        """The last lines that it said, in one."""
        return last_words(self.output(), lines)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program and all its children; none if they have ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """End it and its children at once, as a power failure would."""
        self.signal(signal.SIGKILL)
        self._child.wait()

    @property
    def gone(self) -> bool:
        """Whether it and all its children have ended."""
        self._child.poll()
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return True
        return False


def last_words(output: str, lines: int) -> str:
    """Return the last lines of an output in one, without the colours and frames of a terminal."""
    plain = [line.strip(" │╭╮╰╯─") for line in PAINT.sub("", output).splitlines()]
    return " ".join([line for line in plain if line][-lines:]) or "it said nothing"


def stop(processes: Iterable[Process]) -> None:
    """End processes and their children: all are asked at once, and after `GRACE` seconds made to."""
    left = list(processes)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            process.signal(number)
        deadline = time.monotonic() + GRACE
        while (left := [process for process in left if not process.gone]) and time.monotonic() < deadline:
            time.sleep(0.02)
