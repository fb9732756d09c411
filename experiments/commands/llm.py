"""`fedlab llm serve`: an OpenAI-compatible server of a GGUF file on this machine, the packaged Gemma by default.

It is llama.cpp's own, in this process: it listens on the loopback alone, asks for no key, and ends with Ctrl-C or
SIGTERM.
"""

from __future__ import annotations

import argparse
import signal
import socket
import threading

from fedlab.errors import BadInput
from fedlab.llm.backends.gguf import Gguf, Served


def main(argv: list[str]) -> int:
    """Serve until told to end.

    Parameters
    ----------
    argv
        What follows `fedlab llm`.

    Raises
    ------
    BadInput
        The port is in use, or the model cannot be loaded.
    """
    parser = argparse.ArgumentParser(prog="fedlab llm", description="Language models on this machine.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="serve")
    serve = actions.add_parser("serve", help="an OpenAI-compatible server on the loopback")
    serve.add_argument("--path", help="a GGUF file; without it the packaged Gemma 3 270M")
    serve.add_argument("--port", type=int, default=8080, help="0 takes a free one (default: 8080)")
    serve.add_argument("--parallel", type=int, default=4, help="texts at once (default: 4)")
    serve.add_argument(
        "--context", type=int, default=2048, help="tokens of a prompt and its text (default: 2048)"
    )
    serve.add_argument("--threads", type=int, help="processor threads (default: one for two texts at once)")
    chosen = parser.parse_args(argv)
    _refuse_port(chosen.port)
    model = Gguf(
        chosen.path, chosen.context, chosen.parallel, chosen.threads or max(1, chosen.parallel // 2), False
    )
    ended = threading.Event()
    with model.serve(chosen.port) as served:
        for number in (signal.SIGINT, signal.SIGTERM):  # now: llama.cpp has set its own
            signal.signal(number, lambda *_: ended.set())
        print(_how_to(served), flush=True)
        ended.wait()
    print("stopped")
    return 0


def _how_to(served: Served) -> str:
    override = f"llm=endpoint llm.base_url={served.url} llm.model={served.model} llm.key=null"
    return "\n".join(
        [
            f"serving {served.model} at {served.url}; Ctrl-C ends it",
            # llama.cpp cuts off improbable tokens unless told not to
            f"fedlab run ... {override} '+llm.extra={{min_p: 0, top_k: 0}}'",
        ]
    )


def _refuse_port(port: int) -> None:
    """Refuse a port that is taken: llama.cpp says only that something failed."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise BadInput(
                f"port {port} of 127.0.0.1 cannot be used ({error}): end what listens there, or give another with "
                "--port (0 takes a free one)"
            ) from error
