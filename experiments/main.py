"""The `fedlab` command: `run` composes a config with Hydra and runs it; the other words have a file each.

Whatever goes wrong ends in one message (the value, the limit, the remedy) and exit code 2; `--debug` shows
the traceback.
"""

from __future__ import annotations

import io
import os
import shutil
import sys

import click
from click.shell_completion import shell_complete

from experiments.commands.words import VARIABLE, Words, completion
from experiments.messages import guarded
from fedlab import __version__

COMMANDS = ("run", "report", "deploy", "privacy", "data", "unlearn", "llm", "flower", "new")


def _print_completion(ctx: click.Context, _: click.Parameter, shell: str | None) -> None:
    if shell is not None:
        print(completion(shell))
        ctx.exit()


@click.command(
    cls=Words,
    modules=COMMANDS,
    help="fedlab: federated learning whose heart is closed-form.",
    epilog='Completion: eval "$(fedlab --completion bash)" in ~/.bashrc; zsh and fish likewise.',
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(__version__, prog_name="fedlab")
@click.option("--debug", is_flag=True, help="Show tracebacks; may stand anywhere.")
@click.option("--completion", metavar="SHELL", expose_value=False, callback=_print_completion,
              help="Print what makes bash, zsh or fish complete words and values.")  # fmt: skip
def command(debug: bool) -> None:
    """Do nothing before a word."""


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    _make_printable()
    if instruction := os.environ.get(VARIABLE):
        return shell_complete(command, {}, "fedlab", VARIABLE, instruction)
    if "--debug" in words:
        words.remove("--debug")
        os.environ["FEDLAB_DEBUG"] = "1"
    return guarded(lambda: _run(["--help"] if words in ([], ["help"]) else words))


def _run(words: list[str]) -> int:
    width = min(shutil.get_terminal_size().columns, 110)
    try:
        with command.make_context("fedlab", words, terminal_width=width) as ctx:
            return command.invoke(ctx) or 0
    except click.exceptions.Exit as end:
        return end.exit_code


def _make_printable() -> None:
    """Let everything be printed everywhere: an ASCII terminal shows ?, a closed one nothing."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 (open for as long as the process)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
