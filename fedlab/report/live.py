"""The run as it happens: a line for each method while somebody watches, a few plain lines where nobody does.

A listener of the run directory's events. On a terminal it redraws in place and leaves the last state
standing. In a pipe or a log it prints each method's end and a few marks on the way, so that a log
stays readable.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedlab.report.words import NOTHING, percent

MARKS = 8  # lines on the way of a method where no terminal redraws
WIDE, MIDDLE = 90, 50


@dataclass
class _Line:
    """What one method, or the extraction of features, has done so far."""

    name: str
    rounds: int = 1
    finished: int = 0  # rounds
    done: int = 0  # clients of the round under way
    total: int = 0
    answered: int = 0  # clients, over all rounds
    accuracy: float | None = None
    started: float = field(default_factory=time.monotonic)
    first: int = 0  # rounds finished before this process, when a run is resumed
    seconds: float | None = None  # once it has ended

    @property
    def share(self) -> float:
        part = self.done / self.total if self.total else 0.0
        return 1.0 if self.seconds is not None else min((self.finished + part) / max(self.rounds, 1), 1.0)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started if self.seconds is None else self.seconds

    @property
    def rate(self) -> float | None:
        answered = self.answered + self.done
        return answered / self.elapsed if answered and self.elapsed > 0 else None

    @property
    def left(self) -> float | None:
        gained = self.share - self.first / max(self.rounds, 1)
        return self.elapsed * (1 - self.share) / gained if gained > 0 else None


class Live:
    """Listener and context manager: `with Live() as live: run.subscribe(live)`.

    Args:
        console: Console that shows it; standard output when None.
    """

    def __init__(self, console: Console | None = None):
        self.console = console or Console()
        self._lines: dict[str, _Line] = {}
        self._marks: dict[str, int] = {}
        self._warned: set[str] = set()
        self._moving = self.console.is_terminal and not self.console.is_dumb_terminal
        self._live = RichLive(
            console=self.console, get_renderable=self._render, refresh_per_second=8, vertical_overflow="crop"
        )

    def __enter__(self) -> Live:
        if self._moving:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._moving:
            # Also after Ctrl-C: gives the cursor back and leaves the lines as they stood.
            self._live.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take one event; kinds that are not for display are passed over."""
        match event.get("event"):
            case "method":
                self._start(event).rounds = int(event.get("rounds") or 1)
            case "progress":
                self._progress(self._line(event), event)
            case "features":
                self._features(event)
            case "round":
                self._round(self._line(event), event)
            case "result":
                self._end(self._line(event), event)
            case "note":
                self.console.print(Text(f"{event.get('method')}: {event.get('message')}"), soft_wrap=True)
            case "warning" if (message := str(event.get("message"))) not in self._warned:
                self._warned.add(message)  # a study runs a method many times, and it warns each time
                self.console.print(Text(f"warning: {message}", style="yellow"))

    def _start(self, event: Mapping[str, Any]) -> _Line:
        name = str(event.get("method") or "run")
        self._marks.pop(name, None)
        line = self._lines[name] = _Line(name)
        return line

    def _line(self, event: Mapping[str, Any]) -> _Line:
        return self._lines.get(str(event.get("method") or "run")) or self._start(event)

    def _progress(self, line: _Line, event: Mapping[str, Any]) -> None:
        done, total = int(event.get("done") or 0), int(event.get("total") or 0)
        if done < line.done:  # a phase ended (fit, evaluate) and the next began
            line.answered += line.done
        line.done, line.total = done, total
        line.finished = max(line.finished, int(event.get("round") or 1) - 1)

    def _round(self, line: _Line, event: Mapping[str, Any]) -> None:
        number = int(event.get("round") or 0)
        line.answered, line.done, line.total = line.answered + line.done, 0, 0
        line.first = number - 1 if not line.finished and number > 1 else line.first
        line.finished = number
        line.rounds = max(line.rounds, number)
        if event.get("accuracy") is not None:
            line.accuracy = float(event["accuracy"])
        if 0 < number < line.rounds:
            self._mark(line, f"round {number}/{line.rounds}, accuracy {percent(line.accuracy)}")

    def _features(self, event: Mapping[str, Any]) -> None:
        line = self._lines.setdefault("features", _Line("features"))
        line.done, line.total = int(event.get("done") or 0), int(event.get("total") or 0)
        line.seconds = line.elapsed if line.total and line.done >= line.total else None
        self._mark(line, f"{line.done}/{line.total}")

    def _end(self, line: _Line, event: Mapping[str, Any]) -> None:
        line.answered, line.done = line.answered + line.done, 0
        line.seconds, line.finished = line.elapsed, line.rounds
        if event.get("accuracy") is not None:
            line.accuracy = float(event["accuracy"])
        if not self._moving:
            plural = "round" if line.rounds == 1 else "rounds"
            text = f"{line.rounds} {plural}, accuracy {percent(line.accuracy)}, {_clock(line.elapsed)}"
            self._print(line, f"done: {text}")

    def _mark(self, line: _Line, text: str) -> None:
        """Print on the way, at most `MARKS` times for a method and only where nothing redraws."""
        mark = int(line.share * MARKS)
        if not self._moving and mark > self._marks.get(line.name, 0):
            self._marks[line.name] = mark
            self._print(line, text)

    def _print(self, line: _Line, text: str) -> None:
        self.console.print(Text(f"{line.name}: {text}"), soft_wrap=True)

    def _render(self) -> Table:
        width = self.console.width
        table = Table.grid(padding=(0, 1))
        room = width // 4 if width >= MIDDLE else max(width - 10, 1)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=room)
        if width >= MIDDLE:
            table.add_column(width=max(8, width // 6))
        for _ in range(5 if width >= WIDE else 3 if width >= MIDDLE else 1):
            table.add_column(no_wrap=True, justify="right")
        for line in tuple(self._lines.values()):
            cells: list[Any] = [Text(line.name)]
            if width >= MIDDLE:
                cells.append(ProgressBar(total=1.0, completed=line.share))
            table.add_row(*cells, *map(Text, self._cells(line, width)))
        return table

    def _cells(self, line: _Line, width: int) -> list[str]:
        features = line.name == "features"
        unit = "rows" if features else "clients"
        rounds = NOTHING if features else f"{line.finished}/{line.rounds}"
        clients = f"{line.done}/{line.total}" if line.total else ""
        accuracy = "" if line.accuracy is None else percent(line.accuracy)
        left = "" if line.left is None else f"{_clock(line.left)} left"
        when = left if line.seconds is None else _clock(line.seconds)
        if width >= WIDE:
            rate = "" if line.rate is None else f"{line.rate:,.0f} {unit}/s"
            done = f"{clients} {unit}" if clients else ""
            return ["" if features else f"{rounds} rounds", done, rate, when, accuracy]
        if width >= MIDDLE:
            return [clients if features else rounds, when, accuracy]
        return [accuracy or (clients if features else rounds)]


def _clock(seconds: float) -> str:
    """Seconds as people say them: 0.4 s, 12 s, 3:05, 1:02:00."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
