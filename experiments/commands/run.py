"""`fedlab run`: Hydra composes, the experiment's task runs, the run directory keeps; `resume=DIR` goes on."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from experiments.messages import MENDABLE, debugging, message, say
from experiments.runner.compose import COMPOSITION_ERRORS, composing, configuration, explain
from experiments.runner.resume import CHECKPOINTS, LEDGERS, changed_versions, former_config, reopen
from experiments.runner.schema import check, register
from fedlab.errors import BadInput
from fedlab.report.live import Live
from fedlab.report.result import Result
from fedlab.tracking.run_directory import RunDirectory, remove

RESUME = "resume="
TEMPORARY = [f"{folder}.*.*-*.tmp" for folder in ("", "figures/")]
"""What a kill leaves of a file that was being written."""
KEPT = [f"{CHECKPOINTS}/{name}" for name in ("*/*.safetensors", "*/.*.tmp", "*/", "")]


def main(argv: list[str]) -> int:
    """Compose and run; Hydra's own options (--help, --cfg job, -m) work as usual."""
    if any(word.startswith(RESUME) for word in argv):
        return _resume(argv)
    register()
    # Hydra prints composition errors itself and exits with 1; with this it raises them, to be said better.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    failed: list[int] = []

    def job(cfg: DictConfig) -> Result | None:
        # A job that fails says why; the other jobs of a sweep still run.
        try:
            OmegaConf.resolve(cfg)
            where = HydraConfig.get()
            return execute(cfg, Path(where.runtime.output_dir), list(where.overrides.task))
        except (*MENDABLE, *COMPOSITION_ERRORS) as error:
            if debugging():
                raise
            failed.append(say(message(_readable(error))))
            return None

    run = hydra.main(version_base="1.3", config_path=str(configuration()), config_name="config")(job)
    before = sys.argv
    sys.argv = ["fedlab run", *argv]
    try:
        with composing(argv):
            run()
    finally:
        sys.argv = before
    return max(failed, default=0)


def _readable(error: Exception) -> Exception:
    return BadInput(explain(error)) if isinstance(error, COMPOSITION_ERRORS) else error


def _resume(argv: list[str]) -> int:
    folders = [word.removeprefix(RESUME) for word in argv if word.startswith(RESUME)]
    others = [word for word in argv if not word.startswith(RESUME)]
    if len(folders) > 1 or any(word.startswith("-") for word in others):
        raise BadInput(
            f"{' '.join(argv)}: one run at a time goes on, without options; say fedlab run resume=DIR"
        )
    path = Path(folders[0])
    cfg, overrides = reopen(path, others)
    if not ended(path):
        execute(cfg, path, overrides, resumed=True)
        return 0
    result = settle(Result.load(path), missing=True)
    print(f"{path} has ended: nothing is left to run")
    _show(Console(), result)
    return 0


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
                print(f"to continue: fedlab run {shlex.quote(f'{RESUME}{path}')}", file=sys.stderr)
            raise
    _show(console, result)
    return result


def _show(console: Console, result: Result) -> None:
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
        hydra.utils.get_method("experiments.runner.modernise.modernise")(cfg, directory, former)
    directory.write_text("config.yaml", OmegaConf.to_yaml(cfg))
    directory.write_text("overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides)))
    if not (directory.path / "manifest.json").exists():
        directory.manifest(seeds={"seed": cfg.seed})
    task = hydra.utils.get_method(cfg.task)
    # Flower sets its logger's level when it is imported, which loading the task has done.
    logging.getLogger("flwr").setLevel(logging.ERROR)
    results: dict[str, Any] = task(cfg, directory)
    directory.write_json("results.json", results)
    result = Result.load(directory.path)
    return settle(result)


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
