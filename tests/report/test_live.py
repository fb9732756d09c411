"""The live display: moving on a terminal, brief in a log, and never in the way."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fedlab.report.live import Live, _clock

SHOW_CURSOR = "\x1b[?25h"


def console(width: int = 100, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=width, height=20, force_terminal=terminal, color_system=None)


def play(live: Live, rounds: int = 100, name: str = "fedavg") -> None:
    live({"event": "method", "method": name, "rounds": rounds, "clients": 10})
    live({"event": "round", "method": name, "round": 0, "accuracy": 0.1})
    for number in range(1, rounds + 1):
        for done in (1, 5, 10):
            live({"event": "progress", "method": name, "round": number, "done": done, "total": 10})
        live({"event": "round", "method": name, "round": number, "accuracy": number / rounds / 2})
    live({"event": "result", "method": name, "accuracy": 0.5})


def text(screen: Console) -> str:
    return screen.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("rounds", [1, 2, 7, 100, 1000])
def test_a_log_has_few_lines_and_the_end(rounds):
    screen = console()
    with Live(screen) as live:
        play(live, rounds)
    lines = text(screen).splitlines()
    assert len(lines) <= 10
    assert len(lines) == min(rounds, 8)
    assert lines[-1].startswith(f"fedavg: done: {rounds} round") and "accuracy 50.00 %" in lines[-1]
    assert "\x1b" not in text(screen)


def test_a_log_of_features_is_brief():
    screen = console()
    with Live(screen) as live:
        for done in range(0, 19137, 64):
            live({"event": "features", "done": done, "total": 19136})
    lines = text(screen).splitlines()
    assert len(lines) == 8 and lines[-1] == "features: 19136/19136"


def test_warnings_are_printed_as_they_are():
    screen = console(width=200)
    with Live(screen) as live:
        for _ in range(2):  # the same again says nothing new
            live({"event": "warning", "message": "[bold]3 clients[/] lost"})
    assert text(screen) == "warning: [bold]3 clients[/] lost\n"


def test_events_out_of_order_or_unknown_are_no_failure():
    screen = console()
    with Live(screen) as live:
        live({"event": "round", "method": "afl", "round": 1, "accuracy": None})
        live({"event": "progress", "method": "b"})
        live({"event": "result", "method": "c"})
        live({"event": "features"})
        live({"event": "something else"})
        live({})
    assert "c: done: 1 round, accuracy —" in text(screen)


@pytest.mark.parametrize("width", [1, 8, 20, 49, 50, 89, 90, 200])
def test_a_terminal_of_any_width_is_not_overrun(width):
    screen = console(width, terminal=True)
    live = Live(screen)
    play(live, name="a method with a long name")
    live({"event": "features", "done": 5, "total": 10})
    sheet = console(width)
    sheet.print(live._render())
    assert max(len(line) for line in text(sheet).splitlines()) <= width


def test_twenty_columns_still_show_method_and_accuracy():
    live = Live(console(20, terminal=True))
    play(live)
    sheet = console(20)
    sheet.print(live._render())
    assert "fedavg" in text(sheet) and "50.00 %" in text(sheet)


def test_a_terminal_shows_rounds_clients_rate_time_and_accuracy(clock):
    screen = console(120, terminal=True)
    live = Live(screen)
    live({"event": "method", "method": "fedavg", "rounds": 4, "clients": 10})
    live({"event": "round", "method": "fedavg", "round": 1, "accuracy": 0.25})
    live({"event": "progress", "method": "fedavg", "round": 2, "done": 5, "total": 10})
    line = live._lines["fedavg"]
    line.started = clock.now - 10
    assert line.share == pytest.approx(1.5 / 4)
    assert line.rate == pytest.approx(0.5)
    assert line.left == pytest.approx(10 * 2.5 / 1.5)
    sheet = console(120)
    sheet.print(live._render())
    for part in ("fedavg", "1/4 rounds", "5/10 clients", "clients/s", "17 s left", "25.00 %"):
        assert part in text(sheet)


def test_a_resumed_run_counts_only_its_own_rounds_for_the_time_left(clock):
    live = Live(console())
    live({"event": "method", "method": "fedavg", "rounds": 100})
    live({"event": "round", "method": "fedavg", "round": 90})
    line = live._lines["fedavg"]
    line.started = clock.now - 10
    # One round in ten seconds, ten to go.
    assert line.left == pytest.approx(100)


def test_an_interrupt_gives_the_cursor_back_and_leaves_the_lines():
    screen = console(120, terminal=True)
    with pytest.raises(KeyboardInterrupt), Live(screen) as live:
        live({"event": "round", "method": "fedavg", "round": 1, "accuracy": 0.25})
        raise KeyboardInterrupt
    assert text(screen).rstrip("\n").endswith(SHOW_CURSOR)
    assert "25.00 %" in text(screen)


@pytest.mark.parametrize(("seconds", "said"), [(0.44, "0.4 s"), (59.4, "59 s"), (59.9, "1:00"), (3725, "1:02:05")])
def test_durations(seconds, said):
    assert _clock(seconds) == said
