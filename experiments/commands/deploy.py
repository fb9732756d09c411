"""`fedlab deploy local | keys | register | submit | probe`: run on real Flower processes, here or on your hosts."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from experiments.deploy.connection import Connection, bundle
from experiments.deploy.keys import make_keys
from experiments.deploy.probe import probe
from fedlab.errors import BadInput

HOSTS = ("127.0.0.1", "localhost")


def main(argv: list[str]) -> int:
    """Carry out one of the deployment's actions.

    Parameters
    ----------
    argv
        What follows `fedlab deploy`.

    Raises
    ------
    BadInput
        What was asked cannot be done; the message says why and what to do.
    """
    chosen = _parser().parse_args(argv)
    actions = {"local": _local, "keys": _keys, "register": _register, "submit": _submit, "probe": _probe}
    actions[chosen.action](chosen)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fedlab deploy", description="Real Flower processes.")
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="local | keys | register | submit | probe"
    )
    local = actions.add_parser(
        "local", help="a SuperLink and its SuperNodes here, held against the simulation"
    )
    local.add_argument(
        "overrides", nargs="*", metavar="key=value", help="as for fedlab run; clients=4 by default"
    )
    local.add_argument("--out", type=Path, help="folder for results and logs")
    keys = actions.add_parser("keys", help="make certificates and node keys; what is there is kept")
    keys.add_argument("folder", type=Path)
    keys.add_argument("--host", action="append", help=f"name or address of the SuperLink; {', '.join(HOSTS)}")
    keys.add_argument("--nodes", type=int, default=4)
    register = actions.add_parser("register", help="let SuperNodes in: their public keys")
    register.add_argument("public", type=Path, nargs="+", metavar="nodeI.pub")
    submit = actions.add_parser("submit", help="run a method on a federation that is up, and follow it")
    submit.add_argument("overrides", nargs="*", metavar="key=value", help="as for fedlab run")
    submit.add_argument("--out", help="folder, on the SuperLink's host, for the results")
    asked = actions.add_parser("probe", help="is the Flower server at this address well? for health checks")
    asked.add_argument("address", metavar="HOST:PORT")
    asked.add_argument("--root-certificates", type=Path, help="ca.crt; without it, no TLS")
    for action in (register, submit):
        action.add_argument("--superlink", required=True, metavar="HOST:PORT")
        action.add_argument("--root-certificates", type=Path, required=True, metavar="ca.crt")
    return parser


def _local(chosen: argparse.Namespace) -> None:
    # Here, so that a health check need not load torch.
    from experiments.deploy.local import deploy_locally

    deploy_locally(chosen.overrides, chosen.out)


def _keys(chosen: argparse.Namespace) -> None:
    keys = make_keys(chosen.folder, chosen.host or HOSTS, chosen.nodes)
    print(
        f"{keys.folder}: ca.crt for everyone, {len(keys.public())} node keys; keep the rest to the SuperLink"
    )


def _register(chosen: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as home:
        connection = Connection(chosen.superlink, chosen.root_certificates, Path(home))
        connection.probe()
        for public in chosen.public:
            if not public.is_file():
                raise BadInput(f"{public} is not there: fedlab deploy keys FOLDER --nodes N makes node keys")
            connection.register(public)
            print(f"{public} may connect")


def _submit(chosen: argparse.Namespace) -> None:
    from experiments.deploy.local import one_method
    from experiments.runner.compare import describe

    cfg, name = one_method(chosen.overrides)
    with tempfile.TemporaryDirectory() as home:
        connection = Connection(chosen.superlink, chosen.root_certificates, Path(home) / "flwr")
        connection.probe()
        app = bundle(Path(home) / "app", {**describe(cfg, name), "out": chosen.out})
        connection.stream(app)


def _probe(chosen: argparse.Namespace) -> None:
    probe(chosen.address, chosen.root_certificates)
    print(f"{chosen.address} is well")
