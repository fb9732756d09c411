"""A process that has imported and loaded everything once, and forks runs that can be killed one by one.

{"run": [WORDS]} starts `fedlab WORDS` and prints its pid;    {"wait": PID} prints how it ended
"""

import json
import os
import signal
import sys
from pathlib import Path

from hydra.utils import instantiate

import strategies.app  # noqa: F401
from experiments.config.compose import compose
from experiments.main import main
from fedlab import world
from fedlab.report import curves, figures  # noqa: F401 - matplotlib takes longer to load than a run takes


def serve() -> None:
    cfg = compose(json.loads(sys.argv[1]))
    parts = (cfg.source, cfg.partition, cfg.features.backbone)
    world.build(*map(instantiate, parts), cfg.clients, cfg.seed, cfg.device)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        elif child := os.fork():
            print(child, flush=True)
        else:
            _become(order["run"], Path(order["log"]))


def _become(words: list[str], log: Path) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    code = main(words)
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
    os._exit(0)  # nothing of it is worth an orderly end
