"""`fedlab privacy show | plan | audit`: what was released, what a guarantee takes, and whether the noise keeps it.

Nothing is released by any of them, and no data are read: `plan` knows sizes alone, `audit` attacks a sample of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from experiments.commands.words import Words, console, facts
from fedlab.errors import BadInput, unknown

if TYPE_CHECKING:
    from fedlab.privacy.ridge.guarantee import Guarantee
    from fedlab.privacy.ridge.plan import Plan

SIZES = {"n": None, "d": None, "c": None, "clients": 100}
"""What `plan` asks for, and what it takes where nothing is given; None must be."""
ATTACK = {"releases": 100_000, "confidence": 0.95, "seed": 0}
"""Releases of each kind that `audit` looks at, probability with which its bound holds, seed of the noise."""
EXAMPLE = "fedlab privacy plan n=15000 d=384 c=2 clients=100 epsilon=1 delta=1e-5"


@click.group("privacy", cls=Words)
def command() -> None:
    """What was released, what a guarantee takes, whether it holds: fedlab privacy show RUN_DIR | plan | audit."""


@command.command("show")
@click.argument("run", metavar="RUN_DIR", type=click.Path(path_type=Path))
def show(run: Path) -> None:
    """Show the ledgers of a run: what was released about whom."""
    from fedlab.privacy.accounting import table
    from fedlab.privacy.accounting.ledger import Ledger

    out = console()
    for name, path in ledgers(run).items():
        ledger = Ledger.read(path)
        out.print(f"{name}: {table.headline(ledger)}", soft_wrap=True)
        if ledger.releases:
            out.print(table.releases(ledger))
            out.print(table.groups(ledger))


@command.command("plan", epilog=f"For example: {EXAMPLE}")
@click.argument("settings", metavar="key=value...", nargs=-1)
def plan(settings: Sequence[str]) -> None:
    """Show the noise that a guarantee takes, and what it costs."""
    _print_plan(planned(settings))


@command.command("audit", epilog="For example: fedlab privacy audit epsilon=1 delta=1e-5 releases=100000")
@click.argument("settings", metavar="key=value...", nargs=-1)
def audit(settings: Sequence[str]) -> None:
    """Attack the noise of a guarantee: the epsilon that it cannot be below, from many releases."""
    from fedlab.audit.epsilon import attack

    guarantee, extent = _guarantee(settings, ATTACK)
    for bound, says in zip(attack(guarantee, **extent), ("any mechanism", "Gaussian noise"), strict=True):
        print(
            f"{says}: epsilon >= {bound.epsilon:.3g} at delta {bound.delta:g}, with confidence {bound.confidence:g}, "
            f"from {bound.releases} releases"
        )
        if bound.violates(guarantee.epsilon):
            raise BadInput(
                f"epsilon={guarantee.epsilon:g} is disproved: releases show {bound.epsilon:.3g} at least. This is a "
                f"fault of fedlab's noise, or an audit in {1 / (1 - bound.confidence):.0f} that errs: try another seed="
            )
    print(f"the promised epsilon {guarantee.epsilon:g} is not disproved")


def ledgers(run: Path) -> dict[str, Path]:
    """Return the ledgers of a run directory by method; a deployment has one, under the name of its folder.

    Raises:
        BadInput: There is none.
    """
    from experiments.runner.resume import LEDGERS

    files = {path.stem: path for path in sorted((run / LEDGERS).glob("*.jsonl"))}
    if (run / f"{LEDGERS}.jsonl").is_file():
        files[run.resolve().name] = run / f"{LEDGERS}.jsonl"
    if files:
        return files
    if not run.is_dir():
        raise BadInput(f"{run} is no folder: give the one that `fedlab run` printed")
    if not any((run / name).exists() for name in ("config.yaml", "results.json", "metrics.jsonl")):
        raise BadInput(f"{run} is no run directory: give the one that `fedlab run` printed")
    raise BadInput(
        f"{run} has no ledger: none of its methods promises privacy, so what its clients sent is not protected. "
        "Choose one that does, such as methods=[dp_afl]"
    )


def planned(words: Sequence[str]) -> Plan:
    """Return the plan of `key=value` words.

    Raises:
        BadInput: A key is unknown, missing or given twice, or a value out of range.
    """
    from fedlab.privacy.ridge.plan import Plan

    guarantee, sizes = _guarantee(words, SIZES)
    return Plan(guarantee, **sizes)


def _guarantee(words: Sequence[str], more: Mapping[str, Any]) -> tuple[Guarantee, dict[str, Any]]:
    """Return the guarantee that the words state, and the values of `more` settings; None must be given."""
    from dataclasses import fields

    from fedlab.privacy.ridge.guarantee import Guarantee

    own = {f.name: f.default for f in fields(Guarantee) if f.name not in ("gram_share", "cap")}
    known: dict[str, Any] = {**own, **more}
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise BadInput(f"{word!r} is no setting: write key=value, for example {EXAMPLE}")
        if key not in known:
            raise unknown("setting", key, known)
        if key in given:
            raise BadInput(f"{key} is given twice: {given[key]} and {value}")
        given[key] = value
    if missing := [key for key, default in more.items() if default is None and key not in given]:
        raise BadInput(f"plan needs {', '.join(f'{key}=' for key in missing)}: for example {EXAMPLE}")
    values = known | {key: _value(key, text, known[key]) for key, text in given.items()}
    return Guarantee(**{key: values[key] for key in own}), {key: values[key] for key in more}


def _value(key: str, text: str, default: Any) -> Any:
    """Return a value of its default's kind; a size that must be given is an integer."""
    kind: Callable[[str], Any] = int if default is None else type(default)
    try:
        return kind(text)
    except ValueError as error:
        noun = "an integer" if kind is int else "a number"
        raise BadInput(f"{key}={text} is not {noun}: for example {EXAMPLE}") from error


def _print_plan(plan: Plan) -> None:
    from rich import box
    from rich.table import Column, Table

    from fedlab.privacy.ridge.plan import forecast
    from fedlab.report.words import percent

    of, s, out = plan.guarantee, plan.deviation, console()
    title = f"epsilon={of.epsilon:g} delta={of.delta:g}, one {of.unit}, {of.relation}, trust={of.trust}, "
    title += f"clip={of.clip:g}: n={plan.n} d={plan.d} c={plan.c} clients={plan.clients}"
    own = [("each client adds", f"standard deviation {plan.own_deviation:.4g}")] if plan.own_deviation else []
    rows = (
        ("noise multiplier", f"{of.noise_multiplier:.4g} standard deviations per unit of sensitivity"),
        ("sensitivity", f"{of.sensitivity:.4g} of (G, C)"),
        *own,
        ("noise in the sum", f"{s:.4g} on G's diagonal and C, {s / 2**0.5:.4g} beside the diagonal"),
        ("ridge", f"{plan.ridge:.4g} = s sqrt(2 d), the noise's largest eigenvalue"),
        ("signal to noise", f"{plan.ratio:.3g}: G's average eigenvalue over that"),
    )
    out.print(facts(rows, title=title, title_justify="left"))
    for note in notes(plan):
        out.print(note)
    numbers = (Column(n, justify="right", no_wrap=True) for n in ("noise", "signal", "without", "with", "loss"))
    table = Table("change", *numbers, box=box.SIMPLE_HEAD, pad_edge=False)
    for words, changed in [("as asked", plan), *plan.alternatives()]:
        cells = [words, f"{changed.deviation:.4g}", f"{changed.ratio:.3g}"]
        if (outlook := forecast(changed)) is not None:
            loss = 100 * (outlook.without - outlook.accuracy)
            accuracy = f"{percent(outlook.accuracy)} ± {100 * outlook.spread:.2f}"
            cells += [percent(outlook.without), accuracy, f"{loss:.2f} ± {100 * outlook.error:.2f}"]
        table.add_row(*cells)
    out.print(table)
    out.print(
        "noise: in the sum; signal: over noise; accuracy without and with noise, and what it loses in points, on "
        "synthetic classes of these sizes, not on your data: compare the rows with each other, then measure."
    )


def notes(plan: Plan) -> list[str]:
    """Return what one should know of a plan before trusting it."""
    of, remarks = plan.guarantee, []
    if of.delta > 1 / plan.n and of.unit == "sample":
        above = f"delta={of.delta:g} is above 1/n = {1 / plan.n:.2g}"
        remarks.append(f"{above}: to publish a sample at random would keep it. Take a smaller one.")
    if of.trust == "distributed":
        remarks.append("Integers (Skellam) take a few per cent more, and it is worth nothing without the secure sum.")
    if plan.ratio < 1:
        remarks.append("Only directions in which the features vary far more than on average will be learned.")
    return remarks
