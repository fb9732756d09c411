"""`fedlab run`: Hydra composes, the experiment's task runs, the run directory keeps; `resume=DIR` goes on."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from experiments.commands.words import completion
from experiments.messages import MENDABLE, debugging, message, say
from fedlab.errors import BadInput

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from fedlab.report.result import Result

RESUME = "resume="


def _completed(ctx: click.Context, _: click.Parameter, word: str) -> list[CompletionItem]:
    """Return what Hydra completes the last word to: groups, keys and their values."""
    os.environ["COMP_LINE"] = " ".join(["fedlab", *(ctx.params.get("words") or ()), word])
    with redirect_stdout(io.StringIO()) as answer:
        run(["-sc", "query=bash"])
    return [CompletionItem(choice) for choice in answer.getvalue().split()]


@click.command("run", add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument(
    "words", metavar="[experiment=NAME] [key=value ...] [-m]", nargs=-1, type=click.UNPROCESSED,
    shell_complete=_completed,
)  # fmt: skip
def command(words: Sequence[str]) -> int:
    """Run an experiment: fedlab run [experiment=NAME] [key=value ...] [-m]."""
    if words[:1] in (("-sc",), ("--shell-completion",)) and words[1:2] and words[1].startswith("install="):
        print(completion(words[1].removeprefix("install=")))  # Hydra's own calls `fedlab` without `run`
        return 0
    return run(words)


def run(words: Sequence[str]) -> int:
    """Compose and run; Hydra's own options (--help, --cfg job, -m) work as usual."""
    if any(word.startswith(RESUME) for word in words):
        return _resume(words)
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from experiments.config.compose import COMPOSITION_ERRORS, composing, configuration, explain
    from experiments.config.schema import register

    register()
    # Hydra prints composition errors itself and exits with 1; with this it raises them, to be said better.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    failed: list[int] = []

    def job(cfg: DictConfig) -> Result | None:
        # A job that fails says why; the other jobs of a sweep still run.
        from experiments.runner.execution import execute

        try:
            OmegaConf.resolve(cfg)
            where = HydraConfig.get()
            return execute(cfg, Path(where.runtime.output_dir), list(where.overrides.task))
        except (*MENDABLE, *COMPOSITION_ERRORS) as error:
            if debugging():
                raise
            readable = BadInput(explain(error)) if isinstance(error, COMPOSITION_ERRORS) else error
            failed.append(say(message(readable)))
            return None

    main = hydra.main(version_base="1.3", config_path=str(configuration()), config_name="config")(job)
    before = sys.argv
    sys.argv = ["fedlab run", *words]
    try:
        with composing(words):
            main()
    finally:
        sys.argv = before
    return max(failed, default=0)


def _resume(words: Sequence[str]) -> int:
    from rich.console import Console

    from experiments.runner.execution import ended, execute, settle, show
    from experiments.runner.resume import reopen
    from fedlab.report.result import Result

    folders = [word.removeprefix(RESUME) for word in words if word.startswith(RESUME)]
    others = [word for word in words if not word.startswith(RESUME)]
    if len(folders) > 1 or any(word.startswith("-") for word in others):
        raise BadInput(f"{' '.join(words)}: one run at a time goes on, without options; say fedlab run resume=DIR")
    path = Path(folders[0])
    cfg, overrides = reopen(path, others)
    if not ended(path):
        execute(cfg, path, overrides, resumed=True)
        return 0
    result = settle(Result.load(path), missing=True)
    print(f"{path} has ended: nothing is left to run")
    show(result, Console())
    return 0
