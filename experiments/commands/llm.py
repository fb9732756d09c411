"""`fedlab llm serve`: an OpenAI-compatible server of a GGUF file on this machine, the packaged Gemma by default.

It is llama.cpp's own, in this process: it listens on the loopback alone, asks for no key, and ends with Ctrl-C or
SIGTERM.
"""

from __future__ import annotations

import signal
import socket
import threading

import click

from experiments.commands.words import Words
from fedlab.errors import BadInput


@click.group("llm", cls=Words)
def command() -> None:
    """Serve a language model on this machine: fedlab llm serve [--port N]."""


@command.command("serve")
@click.option("--path", help="A GGUF file; without it the packaged Gemma 3 270M.")
@click.option("--port", default=8080, help="Port on the loopback; 0 takes a free one.")
@click.option("--parallel", default=4, help="Number of texts at once.")
@click.option("--context", default=2048, help="Tokens of a prompt and its text.")
@click.option("--threads", type=int, help="Processor threads; one for two texts at once.")
def serve(path: str | None, port: int, parallel: int, context: int, threads: int | None) -> None:
    """Serve a model on the loopback, as OpenAI does, until Ctrl-C."""
    _refuse_port(port)
    from fedlab.llm.backends.gguf import Gguf

    model = Gguf(path, context, parallel, threads or max(1, parallel // 2), False)
    ended = threading.Event()
    with model.serve(port) as served:
        for number in (signal.SIGINT, signal.SIGTERM):  # now: llama.cpp has set its own
            signal.signal(number, lambda *_: ended.set())
        override = f"llm=endpoint llm.base_url={served.url} llm.model={served.model} llm.key=null"
        print(f"serving {served.model} at {served.url}; Ctrl-C ends it")
        # llama.cpp cuts off improbable tokens unless told not to
        print(f"fedlab run ... {override} '+llm.extra={{min_p: 0, top_k: 0}}'", flush=True)
        ended.wait()
    print("stopped")


def _refuse_port(port: int) -> None:
    """Refuse a port that is taken: llama.cpp says only that something failed."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise BadInput(
                f"port {port} of 127.0.0.1 cannot be used ({error}): end what listens there, or give another with "
                "--port (0 takes a free one)"
            ) from error
