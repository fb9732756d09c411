"""The `fedlab` command: `run` composes a config with Hydra and runs it; the other words have a file each.

Whatever goes wrong ends in one message (the value, the limit, the remedy) and exit code 2; `--debug` shows
the traceback.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from importlib import import_module

from experiments.messages import guarded
from fedlab.errors import unknown

COMMANDS = {
    "run": (
        "experiments.commands.run",
        "run an experiment: fedlab run [experiment=NAME] [key=value ...] [-m]",
    ),
    "report": (
        "experiments.commands.report",
        "write DIR/index.html for run directories: fedlab report DIR ...",
    ),
    "deploy": (
        "experiments.commands.deploy",
        "real Flower processes: fedlab deploy local [key=value ...] | keys | register | submit | probe",
    ),
    "privacy": (
        "experiments.commands.privacy",
        "what was released, what a promise takes: fedlab privacy show RUN_DIR | plan n=... d=... c=...",
    ),
    "data": (
        "experiments.commands.data",
        "list, show or fetch datasets: fedlab data list | show NAME | fetch NAME",
    ),
    "unlearn": (
        "experiments.commands.unlearn",
        "a client or its samples leave a finished run: fedlab unlearn RUN_DIR --client N [--samples FILE]",
    ),
    "llm": (
        "experiments.commands.llm",
        "serve a language model on this machine: fedlab llm serve [--port N]",
    ),
    "flower": (
        "experiments.commands.flower",
        "run an unmodified Flower app on this engine: fedlab flower APP_DIR",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    _make_printable()
    if "--debug" in words:
        words.remove("--debug")
        os.environ["FEDLAB_DEBUG"] = "1"
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, *rest = words
    return guarded(lambda: _command(name)(rest))


def usage() -> str:
    """Return what `fedlab --help` prints."""
    commands = [f"  {name:8} {what}" for name, (_, what) in COMMANDS.items()]
    title = "fedlab -- federated learning whose heart is closed-form"
    return "\n".join([title, "", *commands, "", "--debug shows tracebacks"])


def _make_printable() -> None:
    """Let everything be printed everywhere: an ASCII terminal shows ?, a closed one nothing."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 (open for as long as the process)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _command(name: str) -> Callable[[list[str]], int]:
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    return import_module(COMMANDS[name][0]).main


if __name__ == "__main__":
    sys.exit(main())
