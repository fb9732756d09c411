"""What the command line says when something goes wrong: one message, exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import click

from fedlab.errors import REFUSED, BadInput, ClientFailed

BAD_INPUT = 2
MENDABLE = (BadInput, ClientFailed, OSError, MemoryError, click.UsageError)
"""What a user can mend. Anything else is a fault of fedlab's own and keeps its traceback."""


def debugging() -> bool:
    """Return whether tracebacks are wanted (`--debug`)."""
    return os.environ.get("FEDLAB_DEBUG") == "1"


def guarded(work: Callable[[], int]) -> int:
    """Run `work`; turn what a user can mend into its message and exit code 2."""
    try:
        return work()
    except KeyboardInterrupt:
        if debugging():
            raise
        return say("interrupted: what was written so far is whole and readable")
    except BrokenPipeError:
        # The reader of our output has left (`| head`): nothing to say, and no one to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BAD_INPUT
    except MENDABLE as error:
        if debugging():
            raise
        return say(message(error))


def message(error: BaseException) -> str:
    """Return what to print for an error that a user can mend."""
    if isinstance(error, click.UsageError):
        text = error.format_message()
        where = f" See {error.ctx.command_path} --help" if error.ctx else ""
        return f"{text[:1].lower()}{text[1:]}{where}"
    if isinstance(error, OSError) and error.filename is not None:
        return (
            f"{error.filename}: {error.strerror}. If this is where the run is to be kept, name a writable "
            "folder with free space: hydra.run.dir=FOLDER (hydra.sweep.dir=FOLDER for -m)"
        )
    if not isinstance(error, ClientFailed):
        return str(error) or type(error).__name__
    last = error.reason.strip().splitlines()[-1]
    # A client that refused its input has said why in one line; any other exception needs its traceback.
    refused = last.startswith(REFUSED)
    return f"client {error.client}: {last.removeprefix(REFUSED)}" if refused else str(error)


def say(text: str) -> int:
    """Print a message of `fedlab` to stderr and return the exit code."""
    print(f"fedlab: {text}", file=sys.stderr, flush=True)
    return BAD_INPUT
