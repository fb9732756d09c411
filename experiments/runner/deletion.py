"""A client, or some of its samples, leaves a finished run, and a certificate says so.

The run must have kept its clients' statistics (`methods.afl.strategy.keep_clients=clients`). Its directory then holds
the new head in `model.safetensors` and every certificate in `deletions.jsonl`; `results.json` stays what the run found.
The state of the sums is one file that is replaced whole (`fedlab.engine.persistence.statistics_store`): what a kill
cut off after that is finished by the next call, which may name no client.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors.numpy import save
from yaml import YAMLError

from experiments.config.old_names import translated
from experiments.runner.replay import Again
from fedlab.analytic import Joint
from fedlab.audit.deletion import DeletionCertificate
from fedlab.engine.messages.identity import FIRST_CLIENT_NODE
from fedlab.engine.messages.records import digest_of
from fedlab.errors import BadInput, unknown
from fedlab.report.result import Result
from fedlab.tracking.run_directory import RunDirectory, write_atomically
from fedlab.unlearning.exact import NOTHING, ExactUnlearning
from fedlab.unlearning.sums import Check

MODEL, CERTIFICATES = "model.safetensors", "deletions.jsonl"
SOURCES = {"kept": "kept statistics", "data": "data"}


def delete(
    path: Path,
    clients: Sequence[int] = (),
    rows: Sequence[int] | None = None,
    *,
    method: str | None = None,
    verify: str | None = None,
    resend: bool = False,
) -> tuple[str, list[DeletionCertificate]]:
    """Delete clients or rows from a finished run; return the method and its new certificates, all without a client.

    Args:
        path: Run directory.
        clients: Numbers of the clients who leave; none shows, or verifies, what has been deleted.
        rows: Rows of the training split that leave, all of one client; None for everything the clients have.
        method: Name of the method; None for the first that can.
        verify: Source of a training without the deleted, 'kept' or 'data'; None trains none.
        resend: Whether the clients' statistics are taken from their data again.

    Raises:
        BadInput: The run is not finished or kept nothing, a client or a sample cannot be deleted, or a check failed;
            the run directory is as it was.
    """
    result = Result.load(path)
    cfg = _config(path)
    name = chosen(cfg, result.values, method)
    with RunDirectory(path) as directory:
        directory.claim()
        unlearning = kept_by(cfg, name, path)
        _check_run(unlearning, result, name)
        own = name == next(iter(result.methods), name)  # the run's model is its first method's
        settle(unlearning, path, name, own)
        again = Again(directory, name, unlearning)
        check = None
        if verify:
            check = Check(SOURCES[verify], again.summed if verify == "data" else unlearning.summed)
        if not clients:
            certificates = [unlearning.verify(check)] if verify else unlearning.certificates
        elif rows is not None:
            (client,) = clients
            certificates = [unlearning.delete_samples(client, rows, again.observed(client, rows), check)]
        else:
            resent = {client: again.sent(client) for client in clients} if resend else NOTHING
            certificates = [unlearning.delete(clients, resent, check)]
        settle(unlearning, path, name, own)
    return name, list(certificates)


def kept_by(cfg: DictConfig, name: str, path: Path) -> ExactUnlearning:
    """Return the sums that a method has kept in a run directory."""
    strategy = cfg.methods[name].strategy
    memory = instantiate(strategy.memory) if "memory" in strategy else Joint(strategy.ridge)
    return ExactUnlearning(path / strategy.keep_clients, memory, FIRST_CLIENT_NODE)


def settle(unlearning: ExactUnlearning, path: Path, name: str, own: bool = True) -> None:
    """Let a run directory show the state of its sums, where it does not yet.

    Args:
        unlearning: Sums of the method.
        path: Run directory.
        name: Name of the method.
        own: Whether the run's own model is the method's.
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
    if first != (ended := _results_of(result.values, name).get("head_sha256")):
        raise BadInput(
            f"{unlearning.kept.folder} begins with head {first[:12]}, and {name} of {result.directory} ended with "
            f"{str(ended)[:12]}: it was kept by another run. Run the experiment again"
        )


def chosen(cfg: DictConfig, results: Mapping[str, Any], wanted: str | None = None) -> str:
    """Return the method of a run that clients can be deleted from.

    Raises:
        BadInput: There is none; the reason is that of the method, and so is the remedy.
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
    if _results_of(results, name).get("privacy") or "dp_" in name:
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
    return f"{name} is no sum of its clients' statistics: run it again without the client, or use methods=[afl]"


def read_rows(path: Path) -> list[int]:
    """Return the rows that a file names: whole numbers, one a line or as a JSON list.

    Raises:
        BadInput: It cannot be read, or names something else.
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


def _results_of(results: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return results.get("methods", {}).get(name, results)
