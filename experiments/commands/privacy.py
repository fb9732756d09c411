"""`fedlab privacy show RUN_DIR | plan n=... d=... c=...`: what was released, and what a promise takes.

Nothing is released by either, and no data are read: `plan` knows sizes alone.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.runner.resume import LEDGERS
from fedlab.errors import BadInput, unknown
from fedlab.privacy.accounting import table
from fedlab.privacy.accounting.ledger import Ledger
from fedlab.privacy.ridge.guarantee import Guarantee
from fedlab.privacy.ridge.plan import Plan, forecast
from fedlab.report.words import percent

SIZES = {"n": None, "d": None, "c": None, "clients": 100}
"""What `plan` asks for, and what it takes where nothing is given; None must be."""
PROMISED = {f.name: f.default for f in fields(Guarantee) if f.name not in ("gram_share", "cap")}
EXAMPLE = "fedlab privacy plan n=15000 d=384 c=2 clients=100 epsilon=1 delta=1e-5"


def main(argv: list[str]) -> int:
    """Show the ledgers of a run, or plan a promise.

    Parameters
    ----------
    argv
        What follows `fedlab privacy`.

    Raises
    ------
    BadInput
        There is no ledger, it is damaged, or a setting of the plan is unknown, missing or out of range.
    """
    parser = argparse.ArgumentParser(
        prog="fedlab privacy", description="Privacy: show what is spent, or plan."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="show RUN_DIR | plan key=value...")
    show = actions.add_parser("show", help="the ledgers of a run: what was released about whom")
    show.add_argument("run", metavar="RUN_DIR", type=Path)
    plan = actions.add_parser("plan", help="the noise that a promise takes, and what it costs")
    plan.add_argument("settings", metavar="key=value", nargs="*", help=f"for example {EXAMPLE}")
    chosen = parser.parse_args(argv)
    console = Console(markup=False, highlight=False)
    if chosen.action == "show":
        _show(console, chosen.run)
    else:
        _plan(console, planned(chosen.settings))
    return 0


def ledgers(run: Path) -> dict[str, Path]:
    """Return the ledgers of a run directory by method; a deployment has one, under the name of its folder.

    Raises
    ------
    BadInput
        There is none.
    """
    found = {path.stem: path for path in sorted((run / LEDGERS).glob("*.jsonl"))}
    if (run / f"{LEDGERS}.jsonl").is_file():
        found[run.resolve().name] = run / f"{LEDGERS}.jsonl"
    if found:
        return found
    if not run.is_dir():
        raise BadInput(f"{run} is no folder: give the one that `fedlab run` printed")
    if not any((run / name).exists() for name in ("config.yaml", "results.json", "metrics.jsonl")):
        raise BadInput(f"{run} is no run directory: give the one that `fedlab run` printed")
    raise BadInput(
        f"{run} has no ledger: none of its methods promises privacy, so what its clients sent is not protected. "
        "Choose one that does, such as methods=[dp_afl]"
    )


def _show(console: Console, run: Path) -> None:
    for name, path in ledgers(run).items():
        ledger = Ledger.read(path)
        console.print(f"{name}: {table.headline(ledger)}", soft_wrap=True)
        if ledger.releases:
            console.print(table.releases(ledger))
            console.print(table.groups(ledger))


def planned(words: list[str]) -> Plan:
    """Return the plan of `key=value` words.

    Raises
    ------
    BadInput
        A key is unknown, missing or given twice, or a value out of range.
    """
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise BadInput(f"{word!r} is no setting: write key=value, for example {EXAMPLE}")
        if key not in SIZES | PROMISED:
            raise unknown("setting", key, SIZES | PROMISED)
        if key in given:
            raise BadInput(f"{key} is given twice: {given[key]} and {value}")
        given[key] = value
    missing = [key for key, default in SIZES.items() if default is None and key not in given]
    if missing:
        raise BadInput(f"plan needs {', '.join(f'{key}=' for key in missing)}: for example {EXAMPLE}")
    sizes = {
        key: _number(key, given[key], int) if key in given else default for key, default in SIZES.items()
    }
    promise = {
        key: _number(key, given[key], float) if isinstance(default, float) else given[key]
        for key, default in PROMISED.items()
        if key in given
    }
    return Plan(Guarantee(**promise), **sizes)  # pyright: ignore[reportArgumentType]


def _number(key: str, text: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(text)
    except ValueError as error:
        words = "an integer" if kind is int else "a number"
        raise BadInput(f"{key}={text} is not {words}: for example {EXAMPLE}") from error


def _plan(console: Console, plan: Plan) -> None:
    of = plan.guarantee
    facts = Table(
        title=f"epsilon={of.epsilon:g} delta={of.delta:g}, one {of.unit}, {of.relation}, trust={of.trust}, "
        f"clip={of.clip:g}: n={plan.n} d={plan.d} c={plan.c} clients={plan.clients}",
        title_justify="left",
        show_header=False,
    )
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    s = plan.deviation
    facts.add_row(
        "noise multiplier", f"{of.noise_multiplier:.4g} standard deviations per unit of sensitivity"
    )
    facts.add_row("sensitivity", f"{of.sensitivity:.4g} of (G, C)")
    if plan.own_deviation:
        facts.add_row("each client adds", f"standard deviation {plan.own_deviation:.4g}")
    facts.add_row("noise in the sum", f"{s:.4g} on G's diagonal and C, {s / 2**0.5:.4g} beside the diagonal")
    facts.add_row("ridge", f"{plan.ridge:.4g} = s sqrt(2 d), the noise's largest eigenvalue")
    facts.add_row("signal to noise", f"{plan.ratio:.3g}: G's average eigenvalue over that")
    console.print(facts)
    for note in notes(plan):
        console.print(note)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("change")
    for column in ("noise", "signal", "without", "with", "loss"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = [("as asked", plan), *plan.alternatives()]
    for words, changed in rows:
        cells = [words, f"{changed.deviation:.4g}", f"{changed.ratio:.3g}"]
        if (found := forecast(changed)) is not None:
            loss = 100 * (found.without - found.accuracy)
            accuracy = f"{percent(found.accuracy)} ± {100 * found.spread:.2f}"
            cells += [percent(found.without), accuracy, f"{loss:.2f} ± {100 * found.error:.2f}"]
        table.add_row(*cells)
    console.print(table)
    console.print(
        "noise: in the sum; signal: over noise; accuracy without and with noise, and what it loses in points, on "
        "synthetic classes of these sizes, not on your data: compare the rows with each other, then measure."
    )


def notes(plan: Plan) -> list[str]:
    """Return what one should know of a plan before trusting it."""
    of, found = plan.guarantee, []
    if of.delta > 1 / plan.n and of.unit == "sample":
        found.append(
            f"delta={of.delta:g} is above 1/n = {1 / plan.n:.2g}: to publish a sample at random would keep it. "
            "Take a smaller one."
        )
    if of.trust == "distributed":
        found.append(
            "Integers (Skellam) take a few per cent more, and it is worth nothing without the secure sum."
        )
    if plan.ratio < 1:
        found.append("Only directions in which the features vary far more than on average will be learned.")
    return found
