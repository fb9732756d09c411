"""`fedlab unlearn RUN_DIR --client 17`: a client, or some of its samples, leaves a finished run, with a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from experiments.commands.words import Word, console, facts
from fedlab.errors import BadInput


@click.command("unlearn", cls=Word)
@click.argument("directory", metavar="RUN_DIR", type=click.Path(path_type=Path))
@click.option(
    "--client", "clients", metavar="N...", type=int, multiple=True,
    help="Clients who leave, counted from 0; none shows what was deleted.",
)  # fmt: skip
@click.option(
    "--samples", metavar="FILE", type=click.Path(path_type=Path),
    help="Rows of the training split that leave instead of the whole client, one a line or a JSON list.",
)  # fmt: skip
@click.option(
    "--verify", type=click.Choice(("kept", "data")), is_flag=False, flag_value="kept",
    help="Source of a training without the deleted (kept where none is said); refuse if the heads differ.",
)  # fmt: skip
@click.option(
    "--resend", is_flag=True, help="Take the clients' statistics from their data again, where the kept files are lost."
)
@click.option("--method", metavar="NAME", help="Method, of a run with several.")
def command(
    directory: Path, clients: Sequence[int], samples: Path | None, verify: str | None, resend: bool, method: str | None
) -> None:
    """Take clients or samples out of a finished run: fedlab unlearn RUN_DIR --client N [--samples FILE].

    The run must have kept its clients' statistics; without --client, what was deleted is shown.
    """
    from experiments.runner.deletion import CERTIFICATES, SOURCES, delete, read_rows
    from fedlab.report.result import Result

    if samples and len(clients) != 1:
        raise BadInput(f"--samples {samples} needs the one client who has them: say --client 17")
    rows = read_rows(samples) if samples else None
    name, certificates = delete(directory, clients, rows, method=method, verify=verify, resend=resend)
    out = console()
    for certificate in certificates:
        out.print(facts(certificate.lines(), box=None, pad_edge=False))
    if not certificates:
        out.print(f"{name} of {directory}: nothing was deleted yet", soft_wrap=True)
        return
    out.print(f"certificates in {directory / CERTIFICATES}", soft_wrap=True)
    results = Result.load(directory).values
    if any(values.get("privacy") for values in results.get("methods", {"": results}).values()):
        spent = "what was released before stays released, and its epsilon is spent"
        out.print(f"the privacy ledger is unchanged: {spent}", soft_wrap=True)
    if verify and not all(one.retrained and one.retrained.equal for one in certificates):
        raise BadInput(f"{directory}: a training from {SOURCES[verify]} has another head")
