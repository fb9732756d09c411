"""python flowers_engine.py NODES APP_DIR [KEY=VALUE ...] [-- NODES APP_DIR ...]: apps on Flower's own engine.

Only to compare with: in a process of its own, for Flower's engine starts and ends Ray as it likes.
"""

import gc
import sys
from itertools import groupby
from pathlib import Path

from fedlab.engine.flower_apps.apps import FlowerApp  # isort: skip  # first: it switches network calls off
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation


class Configured(ClientApp):
    """`run_simulation` knows no run config, and refuses a client that changes it."""

    def __init__(self, app: FlowerApp):
        super().__init__()
        self.config, self.client = app.run_config, app.client()

    def __call__(self, message: Message, context: Context) -> Message:
        context.run_config = dict(self.config)
        try:
            return self.client(message, context)
        finally:
            context.run_config = {}


def run(nodes: int, folder: str, *overrides: str) -> None:
    app = FlowerApp.read(Path(folder), overrides)
    outer = ServerApp()

    @outer.main()
    def main(grid: Grid, context: Context) -> None:
        context.run_config = dict(app.run_config)
        app.server()(grid, context)

    gc.freeze()  # Flower's strategies collect garbage for every reply: not through all that torch brings
    resources = {"init_args": {"num_cpus": 2}, "client_resources": {"num_cpus": 1}}
    run_simulation(outer, Configured(app), nodes, backend_config=resources)


if __name__ == "__main__":
    for _, words in groupby(sys.argv[1:], lambda word: word == "--"):
        nodes, *rest = words
        if rest:
            run(int(nodes), *rest)
