"""`fedlab deploy local | keys | register | submit | probe`: run on real Flower processes, here or on your hosts."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from experiments.commands.words import Words
from fedlab.errors import BadInput

HOSTS = ("127.0.0.1", "localhost")

_overrides = click.argument("overrides", metavar="[key=value ...]", nargs=-1)
_superlink = click.option("--superlink", metavar="HOST:PORT", required=True, help="Address of the SuperLink.")
_authority = click.option(
    "--root-certificates", "authority", metavar="ca.crt", required=True, type=click.Path(path_type=Path),
    help="Certificate that the SuperLink's own is signed with.",
)  # fmt: skip


# Each imports what it needs, so that a health check need not load torch.
@click.group("deploy", cls=Words)
def command() -> None:
    """Real Flower processes: fedlab deploy local [key=value ...] | keys | register | submit | probe."""


@command.command("local")
@_overrides
@click.option("--out", type=click.Path(path_type=Path), help="Folder for results and logs.")
def local(overrides: Sequence[str], out: Path | None) -> None:
    """Run a SuperLink and its SuperNodes here, held against the simulation; 4 of them where no clients= is given."""
    from experiments.deploy.local import deploy_locally

    deploy_locally(overrides, out)


@command.command("keys")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--host", "hosts", multiple=True, default=HOSTS, help="Name or address of the SuperLink.")
@click.option("--nodes", default=4, help="Number of SuperNodes that shall have a key.")
def keys(folder: Path, hosts: Sequence[str], nodes: int) -> None:
    """Make certificates and node keys; what is there is kept."""
    from experiments.deploy.keys import make_keys

    made = make_keys(folder, hosts, nodes)
    print(f"{made.folder}: ca.crt for everyone, {len(made.public())} node keys; keep the rest to the SuperLink")


@command.command("register")
@click.argument("public", metavar="nodeI.pub...", nargs=-1, required=True, type=click.Path(path_type=Path))
@_superlink
@_authority
def register(public: Sequence[Path], superlink: str, authority: Path) -> None:
    """Let SuperNodes in: their public keys."""
    from experiments.deploy.connection import Connection

    with tempfile.TemporaryDirectory() as home:
        connection = Connection(superlink, authority, Path(home))
        connection.probe()
        for key in public:
            if not key.is_file():
                raise BadInput(f"{key} is not there: fedlab deploy keys FOLDER --nodes N makes node keys")
            connection.register(key)
            print(f"{key} may connect")


@command.command("submit")
@_overrides
@click.option("--out", help="Folder, on the SuperLink's host, for the results.")
@_superlink
@_authority
def submit(overrides: Sequence[str], out: str | None, superlink: str, authority: Path) -> None:
    """Run a method on a federation that is up, and follow it."""
    from experiments.deploy.connection import Connection, bundle
    from experiments.deploy.local import one_method
    from experiments.runner.compare import describe

    cfg, name = one_method(overrides)
    with tempfile.TemporaryDirectory() as home:
        connection = Connection(superlink, authority, Path(home) / "flwr")
        connection.probe()
        connection.stream(bundle(Path(home) / "app", {**describe(cfg, name), "out": out}))


@command.command("probe")
@click.argument("address", metavar="HOST:PORT")
@click.option("--root-certificates", "authority", type=click.Path(path_type=Path), help="ca.crt; without it, no TLS.")
def probe(address: str, authority: Path | None) -> None:
    """Ask the Flower server at this address whether it is well, for health checks."""
    from experiments.deploy.probe import probe

    probe(address, authority)
    print(f"{address} is well")
