import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

# fedlab.engine comes first: it switches network calls off before Flower and Ray are imported.
from fedlab.engine.simulation.local_grid import LocalGrid  # isort: skip
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.simulation.simulated import SimulatedGrid

NODES = 7
WAIT = 60.0
"""Seconds that client 3 waits for a file."""


def make_app() -> ClientApp:
    """One ClientApp with an action per behaviour; nested functions travel to Ray by value."""
    app = ClientApp()

    def answer(message: Message, arrays: ArrayRecord | None = None, **metrics: float | list[float]) -> Message:
        content = RecordDict({"metrics": MetricRecord(metrics)})
        if arrays is not None:
            content["arrays"] = arrays
        return Message(content, reply_to=message)

    @app.train()
    def local_step(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        arrays = from_record(message.content["arrays"])
        rng = np.random.default_rng(partition)
        moved = {name: 0.9 * array + rng.normal(size=array.shape) for name, array in arrays.items()}
        metrics = {"num-examples": partition + 1, "loss": float(rng.normal())}
        return answer(message, to_record(moved), **metrics)

    @app.evaluate()
    def norm(message: Message, context: Context) -> Message:
        arrays = from_record(message.content["arrays"])
        return answer(message, **{"norm": float(sum(np.abs(a).sum() for a in arrays.values())), "num-examples": 2})

    @app.query("who")
    def who(message: Message, context: Context) -> Message:
        config = context.node_config
        told = {"shown": ConfigRecord({**context.run_config, "run-id": context.run_id})}
        reply = answer(
            message,
            partition=int(config["partition-id"]),
            partitions=int(config["num-partitions"]),
            node=context.node_id,
            pid=os.getpid(),
        )
        reply.content["shown"] = told["shown"]
        return reply

    @app.query("count")
    def count(message: Message, context: Context) -> Message:
        seen = context.state["seen"]["times"] if "seen" in context.state else 0
        context.state["seen"] = MetricRecord({"times": seen + 1})
        return answer(message, times=seen + 1)

    @app.query("vandal")
    def vandal(message: Message, context: Context) -> Message:
        content = message.content
        config, arrays = content["config"], content["arrays"]
        intact = config["list"] == [1, 2] and "mine" not in config and list(arrays) == ["w"] and len(content) == 2
        config["list"].append(3)
        config["mine"] = 1
        from_record(arrays)["w"][:] = 0
        intact = intact and from_record(arrays)["w"].sum() == 4
        del arrays["w"]
        content["more"] = MetricRecord({"a": 1})
        return answer(message, intact=int(intact))

    @app.query("fail")
    def fail(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == message.content["config"]["partition"]:
            raise ValueError("no such sample: 42")
        return answer(message, fine=1)

    @app.query("suicide")
    def suicide(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == message.content["config"]["partition"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer(message, fine=1)

    @app.query("leave")
    def leave(message: Message, context: Context) -> Message:
        raise SystemExit(3)

    @app.query("nothing")
    def nothing(message: Message, context: Context) -> Message:
        return None  # pyright: ignore[reportReturnType]

    @app.query("wait")
    def wait(message: Message, context: Context) -> Message:
        waited, seconds, step = 0.0, WAIT, 0.1
        while context.node_config["partition-id"] == 3 and waited < seconds:
            if Path(message.content["config"]["file"]).exists():
                break
            time.sleep(step)
            waited += step
        return answer(message, partition=int(context.node_config["partition-id"]))

    @app.query("trace")
    def trace(message: Message, context: Context) -> Message:
        with Path(message.content["config"]["file"]).open("a") as file:
            file.write(f"{context.node_config['partition-id']}\n")
        return answer(message, fine=1)

    return app


@pytest.fixture(scope="session")
def app() -> ClientApp:
    return make_app()


@pytest.fixture(scope="package")
def ray_runtime() -> Iterator[None]:
    """One Ray for these tests: it takes seconds to start."""
    import ray

    ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="module", params=["local", "ray-1", "ray-2"])
def grid(request: pytest.FixtureRequest, app: ClientApp) -> Iterator[SimulatedGrid]:
    """The same contract on every Grid: seven nodes, and chunks of two so that there are several."""
    kind, _, workers = request.param.partition("-")
    if kind == "local":
        made: SimulatedGrid = LocalGrid(app, NODES, {"config": "{}"}, chunk=2)
    else:
        from fedlab.engine.simulation.ray_grid import RayGrid

        request.getfixturevalue("ray_runtime")
        made = RayGrid(app, NODES, {"config": "{}"}, num_workers=int(workers), cpus_per_worker=0.5, chunk=2)
    with made:
        yield made


@pytest.fixture
def ask() -> Callable[..., list[Message]]:
    """Messages of one action to all nodes, sharing one content as strategies do."""

    def make(grid: SimulatedGrid, action: str, **config: object) -> list[Message]:
        content = RecordDict({"config": ConfigRecord(config)})  # pyright: ignore[reportArgumentType]
        return [Message(content, node, f"query.{action}") for node in grid.get_node_ids()]

    return make
