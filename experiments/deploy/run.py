"""A run on a federation, followed to its end; also across a SuperLink that is restarted meanwhile."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from experiments.deploy.connection import Connection
from experiments.deploy.process import PAINT
from fedlab.errors import BadInput

MARK = "fedlab: "
"""What the lines of our own ServerApp begin with."""

LAG = 5.0
"""Seconds that the last lines of a run are waited for."""


class Run:
    """Started where it is made.

    Args:
        connection: Connection to the SuperLink.
        app: Folder of the app, made by `bundle`.
        out: Folder that the app's config names: where the ServerApp leaves its results.
        log: File of what the ServerApp says.
    """

    def __init__(self, connection: Connection, app: Path, out: Path, log: Path):
        self.connection, self.out, self.log = connection, out, log
        self._follower = connection.submit(app, log)
        self._number: str | None = None

    @property
    def number(self) -> str | None:
        """Flower's number of the run; None while it has none."""
        if self._number is None and (start := re.search(r"started run (\d+)", self._follower.output())):
            self._number = start[1]
        return self._number

    def lines(self) -> list[str]:
        """Return what our ServerApp has said so far, as the last follower has heard it."""
        output = PAINT.sub("", self._follower.output()).splitlines()
        return [line.partition(MARK)[2] for line in output if MARK in line]

    def wait(
        self,
        retry_for: float | None = None,
        check: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> Path:
        """Wait for the results and return their folder.

        Args:
            retry_for: Seconds until it is given up; None waits for ever.
            check: Function called in between; may raise.
            say: Function told each line of our ServerApp, once.

        Raises:
            BadInput: The run could not be started, ended without results, or left none in time.
        """
        deadline = float("inf") if retry_for is None else time.monotonic() + retry_for
        printed = 0
        while True:
            done = (self.out / "results.json").exists()
            if done:
                self._hear_the_rest()
            for line in self.lines()[printed:]:
                printed += 1
                say(line)
            if done:
                self.stop_following()
                return self.out
            self.check()
            check()
            if time.monotonic() > deadline:
                raise BadInput(
                    f"no results within {retry_for:g} s; the last that was heard: {self._follower.last_words()}"
                )
            time.sleep(0.1)

    def check(self) -> None:
        """Raise if the run is over and has left no results.

        Raises:
            BadInput: With the ServerApp's last words.
        """
        if self._ended() and not (self.out / "results.json").exists():
            raise BadInput(f"the run ended without results: {self._follower.last_words()} (all of it: {self.log})")

    def stop_following(self) -> None:
        """Let the run go on unheard."""
        self._follower.kill()

    def _hear_the_rest(self) -> None:
        # What the ServerApp says arrives about a second later than its results.
        deadline = time.monotonic() + LAG
        while self._follower.code is None and time.monotonic() < deadline:
            time.sleep(0.05)

    def _ended(self) -> bool:
        """Whether the run is over; a follower that has lost its SuperLink is replaced."""
        number = self.number
        if self._follower.code is None:
            return False
        if number is None:
            raise BadInput(f"the run was not started: {self._follower.last_words()}")
        status = self.connection.status(number)
        if status is not None and status.startswith("finished"):
            return True
        self._follower = self.connection.follow(number, self.log)
        return False
