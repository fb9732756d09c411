"""An endpoint that is asked politely and waited for: so many requests a minute, and patience while it is away.

Whoever knows the endpoint's client says what an error is; here is only when to ask again, and when to stop.

wait after the k-th failure = min(longest, first 2^(k - 1)) u,   u uniform in [1/2, 1], drawn by seed
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from threading import Event, Lock
from typing import TypeVar

from fedlab.errors import BadInput

_LOG = logging.getLogger("fedlab")

Answer = TypeVar("Answer")
MALFORMED = "malformed"
"""What is asked for again a few times only: the endpoint is there, and this is what it says."""
Warn = Callable[[str], object]
"""Called with a sentence about an endpoint that is away, or is back."""


class Pace:
    """Starts at most `per_minute` requests a minute, evenly; None does not hold back."""

    def __init__(self, per_minute: float | None):
        self._interval = 60 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = Lock()

    def wait(self, stop: Event) -> None:
        """Return when the next request may start, or `stop` is set."""
        if not self._interval:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._interval
        stop.wait(start - now)


class Retry:
    """Asks until there is an answer, for all requests of one endpoint: what one learns spares the others a warning.

    Parameters
    ----------
    name
        Of the endpoint, for people.
    seconds
        Without any answer after which it is given up.
    retries
        Malformed answers to one request beyond which it is given up.
    first, longest
        Seconds of the waits.
    seed
        Of u, which keeps requests that failed together from coming again together.
    pace
        When a request may start.
    warn
        Told when the endpoint goes and when it is back; None is the log.

    Attributes
    ----------
    troubles
        What went wrong and how often, over all requests.
    """

    def __init__(
        self,
        name: str,
        seconds: float,
        *,
        retries: int,
        first: float,
        longest: float,
        seed: int,
        pace: Pace,
        warn: Warn | None = None,
    ):
        self.troubles: Counter[str] = Counter()
        self._name, self._seconds, self._retries = name, seconds, retries
        self._first, self._longest = first, longest
        self._draw = random.Random(seed)
        self._pace = pace
        self._warn = warn or _LOG.warning
        self._since: float | None = None
        self._lock = Lock()

    def answer(
        self, ask: Callable[[], Answer], why: Callable[[Exception], tuple[str, float]], stop: Event
    ) -> Answer:
        """Return what `ask` returns in the end.

        Parameters
        ----------
        ask
            Sends the request and reads the answer.
        why
            Names what went wrong, and for how many seconds the endpoint wants to be left alone; raises what
            asking again cannot mend.
        stop
            Set when nobody waits for the answer any more.

        Raises
        ------
        BadInput
            After `seconds` without an answer for anyone, or too many malformed ones.
        """
        failures = malformed = 0
        while not stop.is_set():
            self._pace.wait(stop)
            try:
                answer = ask()
            except Exception as error:
                what, at_least = why(error)
            else:
                self._answered()
                return answer
            self.count(what)
            failures += 1
            malformed += what == MALFORMED
            if malformed > self._retries:
                raise BadInput(
                    f"{self._name} gave {malformed} malformed answers to one prompt (limit: retries {self._retries}): "
                    "expected what an OpenAI-compatible endpoint gives; look at what answers there"
                )
            self._wait(failures, at_least, self._failed(what), stop)
        raise BadInput(f"{self._name} was not asked further: another request failed")

    def count(self, what: str) -> None:
        """Count something that went wrong."""
        with self._lock:
            self.troubles[what] += 1

    def _answered(self) -> None:
        with self._lock:
            since, self._since = self._since, None
        if since is not None:
            self._warn(f"{self._name} answers again after {time.monotonic() - since:.1f} s")

    def _failed(self, what: str) -> float:
        """Return for how many seconds nobody has had an answer."""
        now = time.monotonic()
        with self._lock:
            new = self._since is None
            self._since = now if self._since is None else self._since
            away = now - self._since
            counts = ", ".join(f"{name} {times}" for name, times in sorted(self.troubles.items()))
        if new:
            self._warn(f"{self._name}: {what}; trying again for {self._seconds:g} s")
        if away > self._seconds:
            raise BadInput(
                f"{self._name} gave no answer for {away:.1f} s (limit: patience {self._seconds:g} s; {counts}): start "
                "it again or raise patience, then run again; texts that arrived are kept"
            )
        return away

    def _wait(self, failures: int, at_least: float, away: float, stop: Event) -> None:
        with self._lock:
            drawn = self._draw.uniform(0.5, 1.0)
        backoff = min(self._longest, self._first * 2 ** min(failures - 1, 30)) * drawn
        # the last try comes when patience ends, not before it
        stop.wait(min(max(backoff, at_least), self._seconds - away + 0.001))
