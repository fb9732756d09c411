"""A run in its directory: begun or continued, its results and figures left behind, its checkpoints forgotten."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path
from typing import Any

from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from experiments.config.schema import check
from experiments.runner.resume import CHECKPOINTS, LEDGERS, changed_versions, former_config
from fedlab.report.live import Live
from fedlab.report.result import Result
from fedlab.tracking.run_directory import RunDirectory, remove

TEMPORARY = [f"{folder}.*.*-*.tmp" for folder in ("", "figures/")]
"""What a kill leaves of a file that was being written."""
KEPT = [f"{CHECKPOINTS}/{name}" for name in ("*/*.safetensors", "*/.*.tmp", "*/", "")]


def ended(path: Path) -> bool:
    """Return whether a run came to its end."""
    return (path / "results.json").exists()


def execute(cfg: DictConfig, path: Path, overrides: list[str], resumed: bool = False) -> Result:
    """Run the experiment in a directory; print progress, then the table."""
    console = Console()
    with RunDirectory(path) as directory:
        directory.claim()  # here, for another's run is not to be continued
        try:
            with Live(console) as live:
                directory.subscribe(live)
                result = perform(cfg, directory, overrides, resumed)
        except BaseException:
            if (path / CHECKPOINTS).exists():
                print(f"to continue: fedlab run {shlex.quote(f'resume={path}')}", file=sys.stderr)
            raise
    show(result, console)
    return result


def show(result: Result, console: Console) -> None:
    """Print the table of a run and where it lies."""
    console.print(result.table(), highlight=False)
    console.print(f"results in {result.directory}", soft_wrap=True, highlight=False)


def perform(cfg: DictConfig, directory: RunDirectory, overrides: list[str], resumed: bool = False) -> Result:
    """Run the task of a composed config, or what is left of it; leave the whole run-directory contract behind."""
    check(cfg)
    directory.claim()
    remove(directory.path, TEMPORARY)
    if resumed and (warning := changed_versions(directory.path)):
        directory.tick("warning", message=warning)
    if not resumed:  # one that goes on has released what it has released, checkpoint or not
        remove(directory.path, [f"{LEDGERS}/*.jsonl", f"{LEDGERS}/"])
    if not (resumed and (directory.path / CHECKPOINTS).exists()):
        _begin(directory)
    if resumed and (former := former_config(directory.path)):
        get_method("experiments.runner.modernise.modernise")(cfg, directory, former)
    directory.write_text("config.yaml", OmegaConf.to_yaml(cfg))
    directory.write_text("overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides)))
    if not (directory.path / "manifest.json").exists():
        directory.manifest(seeds={"seed": cfg.seed})
    task = get_method(cfg.task)
    # Flower sets its logger's level when it is imported, which loading the task has done.
    logging.getLogger("flwr").setLevel(logging.ERROR)
    results: dict[str, Any] = task(cfg, directory)
    directory.write_json("results.json", results)
    return settle(Result.load(directory.path))


def settle(result: Result, missing: bool = False) -> Result:
    """Forget the run's checkpoints; save every figure that it has the numbers for, or those that are missing."""
    remove(result.directory, KEPT)
    for kind in result.kinds:
        file = result.directory / "figures" / f"{kind}.png"
        if not (missing and file.exists()):
            result.plot(kind, file)
    return result


def _begin(directory: RunDirectory) -> None:
    """Remove what another run has left in the folder and this one could be taken for."""
    remove(directory.path, ["results.json", "manifest.json", *KEPT])
    directory.rewind(lambda _: False)
