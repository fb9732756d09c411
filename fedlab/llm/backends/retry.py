"""An endpoint that is asked politely and waited for: so many requests a minute, and again while it is away.

Whoever knows the endpoint's client says what an error is; here is only when to ask again, and when to stop.

wait after the k-th failure = min(longest, first 2^(k - 1)) u,   u uniform in [1/2, 1], drawn by seed

tenacity asks again and again. When to give up is ours, for no library has it: all requests share one clock, which an
answer to any of them resets, and which is warned about once.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from threading import Event, Lock
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_not_exception_type, sleep_using_event, wait_exponential

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

    Args:
        name: Name of the endpoint, for people.
        retry_for: Seconds without any answer after which it is given up.
        retries: Number of malformed answers to one request beyond which it is given up.
        first, longest: Seconds of the first wait and of the longest.
        seed: Seed of u, which keeps requests that failed together from coming again together.
        pace: Pace at which requests may start.
        warn: Function told when the endpoint goes and when it is back; None is the log.

    Attributes:
        troubles: Counts of what went wrong, over all requests.
    """

    def __init__(
        self,
        name: str,
        retry_for: float,
        *,
        retries: int,
        first: float,
        longest: float,
        seed: int,
        pace: Pace,
        warn: Warn | None = None,
    ):
        self.troubles: Counter[str] = Counter()
        self._name, self._retry_for, self._retries = name, retry_for, retries
        self._backoff = wait_exponential(multiplier=first, max=longest)
        self._draw = random.Random(seed)
        self._pace = pace
        self._warn = warn or _LOG.warning
        self._since: float | None = None
        self._lock = Lock()

    def answer(
        self, send: Callable[[], Answer], why: Callable[[BaseException], tuple[str, float]], stop: Event
    ) -> Answer:
        """Return what `send` returns in the end.

        Args:
            send: Request that is sent and whose answer is read.
            why: Name of what went wrong, and seconds for which the endpoint wants to be left alone; raises what
                asking again cannot mend.
            stop: Event that is set when nobody waits for the answer any more.

        Raises:
            BadInput: After `retry_for` seconds without an answer for anyone, or too many malformed ones.
        """
        malformed = 0

        def attempt() -> Answer:
            if stop.is_set():
                raise BadInput(f"{self._name} was not asked further: another request failed")
            self._pace.wait(stop)
            return send()

        def seconds(state: RetryCallState) -> float:
            nonlocal malformed
            error = state.outcome and state.outcome.exception()
            assert error is not None
            trouble, at_least = why(error)
            self.count(trouble)
            malformed += trouble == MALFORMED
            if malformed > self._retries:
                raise BadInput(
                    f"{self._name} gave {malformed} malformed answers to one prompt (limit: retries {self._retries}): "
                    "expected what an OpenAI-compatible endpoint gives; look at what answers there"
                )
            away = self._failed(trouble)
            with self._lock:
                backoff = self._backoff(state) * self._draw.uniform(0.5, 1.0)
            # the last try comes when retry_for ends, not before it
            return min(max(backoff, at_least), self._retry_for - away + 0.001)

        again = Retrying(retry=retry_if_not_exception_type(BadInput), wait=seconds, sleep=sleep_using_event(stop))
        answer = again(attempt)
        self._answered()
        return answer

    def count(self, trouble: str) -> None:
        """Count something that went wrong."""
        with self._lock:
            self.troubles[trouble] += 1

    def _answered(self) -> None:
        with self._lock:
            since, self._since = self._since, None
        if since is not None:
            self._warn(f"{self._name} answers again after {time.monotonic() - since:.1f} s")

    def _failed(self, trouble: str) -> float:
        """Return for how many seconds nobody has had an answer."""
        now = time.monotonic()
        with self._lock:
            new = self._since is None
            self._since = now if self._since is None else self._since
            away = now - self._since
            counts = ", ".join(f"{name} {times}" for name, times in sorted(self.troubles.items()))
        if new:
            self._warn(f"{self._name}: {trouble}; trying again for {self._retry_for:g} s")
        if away > self._retry_for:
            raise BadInput(
                f"{self._name} gave no answer for {away:.1f} s (limit: retry_for {self._retry_for:g} s; {counts}): "
                "start it again or raise retry_for, then run again; texts that arrived are kept"
            )
        return away
