"""`fedlab unlearn RUN_DIR --client 17`: a client, or some of its samples, leaves a finished run, with a certificate.

The run must have kept its clients' statistics (`methods.afl.strategy.keep_clients=clients`). Its directory then holds
the new head in `model.safetensors` and every certificate in `deletions.jsonl`; `results.json` stays what the run found.
The state of the sums is one file that is replaced whole (`fedlab.engine.persistence.statistics_store`): what a kill
cut off after that is finished by the next call, which may name no client.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save
from yaml import YAMLError

from experiments.runner.old_names import translated
from experiments.runner.replay import Again
from fedlab.analytic import Joint
from fedlab.audit.deletion import DeletionCertificate
from fedlab.engine.messages.identity import FIRST_CLIENT_NODE
from fedlab.engine.messages.records import digest_of
from fedlab.errors import BadInput, unknown
from fedlab.report.result import Result
from fedlab.tracking.run_directory import RunDirectory, write_atomically
from strategies.exact_unlearning import NOTHING, Check, ExactUnlearning

MODEL, CERTIFICATES = "model.safetensors", "deletions.jsonl"
SOURCES = {"kept": "kept statistics", "data": "data"}


def main(argv: list[str]) -> int:
    """Delete, verify or show.

    Parameters
    ----------
    argv
        What follows `fedlab unlearn`.

    Raises
    ------
    BadInput
        The run is not finished or kept nothing, a client or a sample cannot be deleted, or a check failed; the run
        directory is as it was.
    """
    asked = parser().parse_args(argv)
    if asked.samples and len(asked.client) != 1:
        raise BadInput(f"--samples {asked.samples} needs the one client who has them: say --client 17")
    result = Result.load(asked.directory)
    cfg = _config(asked.directory)
    name = chosen(cfg, result.values, asked.method)
    with RunDirectory(asked.directory) as directory:
        directory.claim()
        unlearning = kept_by(cfg, name, asked.directory)
        _check_run(unlearning, result, name)
        own = name == next(
            iter(result.values.get("methods", {})), name
        )  # the run's model is its first method's
        settle(unlearning, asked.directory, name, own)
        again = Again(directory, name, unlearning)
        check = None
        if asked.verify == "data":
            check = Check(SOURCES["data"], again.summed)
        elif asked.verify:
            check = Check(SOURCES["kept"], unlearning.summed)
        if not asked.client:
            certificates = unlearning.certificates if not asked.verify else [unlearning.verify(check)]
        elif asked.samples:
            (client,), rows = asked.client, read_rows(asked.samples)
            certificates = [unlearning.delete_samples(client, rows, again.observed(client, rows), check)]
        else:
            resent = {client: again.sent(client) for client in asked.client} if asked.resend else NOTHING
            certificates = [unlearning.delete(asked.client, resent, check)]
        settle(unlearning, asked.directory, name, own)
    _show(certificates, result, name)
    if asked.verify and not all(one.retrained and one.retrained.equal for one in certificates):
        raise BadInput(f"{asked.directory}: a training from {SOURCES[asked.verify]} has another head")
    return 0


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(
        prog="fedlab unlearn",
        description="Delete clients or samples from a finished run; without --client, show.",
    )
    parser.add_argument("directory", metavar="RUN_DIR", type=Path, help="of a run that kept its clients")
    parser.add_argument(
        "--client",
        metavar="N",
        type=int,
        nargs="+",
        default=[],
        help="who leaves, counted from 0: several at once",
    )
    parser.add_argument(
        "--samples",
        metavar="FILE",
        type=Path,
        help="only these of the client: rows of the training split, one a line or a JSON list",
    )
    parser.add_argument(
        "--verify",
        choices=SOURCES,
        nargs="?",
        const="kept",
        help="train without the deleted, from what was kept or from the data, and refuse if the heads differ",
    )
    parser.add_argument(
        "--resend",
        action="store_true",
        help="take the clients' statistics from their data again, where the kept files are lost",
    )
    parser.add_argument("--method", metavar="NAME", help="of a run with several: afl")
    return parser


def kept_by(cfg: DictConfig, name: str, path: Path) -> ExactUnlearning:
    """Return the sums that a method has kept in a run directory."""
    strategy = cfg.methods[name].strategy
    memory = instantiate(strategy.memory) if "memory" in strategy else Joint(strategy.ridge)
    return ExactUnlearning(path / strategy.keep_clients, memory, FIRST_CLIENT_NODE)


def settle(unlearning: ExactUnlearning, path: Path, name: str, own: bool = True) -> None:
    """Let a run directory show the state of its sums, where it does not yet.

    Parameters
    ----------
    unlearning
        The sums.
    path
        The run directory.
    name
        The method.
    own
        Whether the run's own model is the method's.
    """
    certificates = unlearning.certificates
    if not certificates:
        return
    lines = [json.dumps(one.values(), separators=(",", ":")) + "\n" for one in certificates]
    files = {CERTIFICATES: "".join(lines).encode()}
    if own:
        files[MODEL] = save({"weight": unlearning.head()}, metadata={"method": name})
    for file, data in files.items():
        target = path / file
        if not target.exists() or target.read_bytes() != data:
            write_atomically(target, data)


def _check_run(unlearning: ExactUnlearning, result: Result, name: str) -> None:
    """Refuse what another run has kept: its first head must be the one that this run ended with."""
    certificates = unlearning.certificates
    first = certificates[0].head_before if certificates else digest_of({"weight": unlearning.head()})
    if first != (found := _told(result.values, name).get("head_sha256")):
        raise BadInput(
            f"{unlearning.kept.folder} begins with head {first[:12]}, and {name} of {result.directory} ended with "
            f"{str(found)[:12]}: it was kept by another run. Run the experiment again"
        )


def chosen(cfg: DictConfig, results: Mapping[str, Any], wanted: str | None = None) -> str:
    """Return the method of a run that clients can be deleted from.

    Raises
    ------
    BadInput
        There is none; the reason is that of the method, and so is the remedy.
    """
    if wanted is not None and wanted not in cfg.methods:
        raise unknown("method", wanted, map(str, cfg.methods))
    names = [wanted] if wanted is not None else list(map(str, cfg.methods))
    able = [name for name in names if (cfg.methods[name].strategy or {}).get("keep_clients")]
    if able:
        return able[0]
    raise BadInput("; ".join(dict.fromkeys(_refusal(name, cfg.methods[name], results) for name in names)))


def _refusal(name: str, method: Any, results: Mapping[str, Any]) -> str:
    strategy = method.strategy or {}
    target = str(strategy.get("_target_", ""))
    if "secagg" in name or "secagg" in target:
        return (
            f"{name}: under secure aggregation the server has no client's statistics to subtract. Who leaves does so "
            f"in a masked round of its own: methods.{name}.strategy.leave=[17]"
        )
    if _told(results, name).get("privacy") or "dp_" in name:
        return (
            f"{name}: what was released carries noise and stays released, with its epsilon; a deletion applies to a "
            "later release. Run the experiment again without the client"
        )
    if "keep_clients" in strategy:
        return f"{name} kept no client's statistics: run it with methods.{name}.strategy.keep_clients=clients"
    if target.endswith(".TwoRounds"):
        return (
            f"{name}: every sample was weighed by everybody's counts, so without a client all others weigh anew. Use "
            "methods=[air], whose sums class by class can be weighed again, or run it again without the client"
        )
    if not strategy:
        return f"{name} has everybody's samples and no clients: run it again without the samples"
    return (
        f"{name} is no sum of its clients' statistics: run it again without the client, or use methods=[afl]"
    )


def read_rows(path: Path) -> list[int]:
    """Return the rows that a file names: whole numbers, one a line or as a JSON list.

    Raises
    ------
    BadInput
        It cannot be read, or names something else.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
        rows = json.loads(text) if text.startswith("[") else [int(word) for word in text.split()]
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise BadInput(
            f"{path} names no rows ({error}): give whole numbers, rows of the training split, one a line or as a "
            "JSON list"
        ) from error
    if wrong := [row for row in rows if not isinstance(row, int) or isinstance(row, bool)]:
        raise BadInput(f"{path} names row {wrong[0]!r}: give whole numbers")
    return rows


def _config(path: Path) -> DictConfig:
    try:
        cfg = OmegaConf.create(translated(OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))))
        assert isinstance(cfg, DictConfig)
        return cfg
    except (OSError, AssertionError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise BadInput(f"{path / 'config.yaml'} cannot be read: {path} is no run directory") from error


def _told(results: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return results.get("methods", {}).get(name, results)


def _show(certificates: list[DeletionCertificate], result: Result, name: str) -> None:
    console = Console(markup=False, highlight=False)
    for certificate in certificates:
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column()
        table.add_column(overflow="fold")
        for line in certificate.lines():
            table.add_row(*line)
        console.print(table)
    if not certificates:
        console.print(f"{name} of {result.directory}: nothing was deleted yet", soft_wrap=True)
        return
    console.print(f"certificates in {result.directory / CERTIFICATES}", soft_wrap=True)
    if any(told.get("privacy") for told in result.values.get("methods", {"": result.values}).values()):
        console.print(
            "the privacy ledger is unchanged: what was released before stays released, and its epsilon is spent",
            soft_wrap=True,
        )
