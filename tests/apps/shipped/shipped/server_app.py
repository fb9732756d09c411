"""shipped: runs the rows of the table one after the other and leaves their results in one file."""

import random

import numpy as np
import xgboost as xgb
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from shipped.client_app import forest, load_data
from shipped.table import NODES, ROWS, Row

ROUNDS = 2

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    # Flower draws its node ids at random: the same seed samples the same partitions in one order only.
    nodes = by_partition(grid)
    grid.get_node_ids = lambda: nodes
    found: dict[str, np.ndarray] = {}
    for row in ROWS:
        random.seed(1)  # which nodes are sampled
        np.random.seed(1)  # the noise of differential privacy  # noqa: NPY002
        for name, numbers in run(row, grid).items():
            found[f"{row.name}/{name}"] = numbers
    np.savez(context.run_config["out"], **found)


def by_partition(grid: Grid) -> list[int]:
    while len(nodes := list(grid.get_node_ids())) < NODES:
        pass
    replies = grid.send_and_receive([Message(RecordDict(), node, "query") for node in nodes], timeout=60)
    partitions = {r.metadata.src_node_id: r.content["which"]["partition"] for r in replies}
    return sorted(nodes, key=lambda node: partitions[node])


def run(row: Row, grid: Grid) -> dict[str, np.ndarray]:
    """Return the model and every aggregated metric of every round."""
    if row.task == "linear":
        initial = ArrayRecord([np.zeros(6, np.float32), np.zeros(1, np.float32)])
    else:
        initial = ArrayRecord([np.frombuffer(b"", dtype=np.uint8)])
    strategy = row.strategy()
    config = ConfigRecord({"task": row.task, "mod": row.mod})
    result = strategy.start(grid, initial, num_rounds=ROUNDS, timeout=60, train_config=config)
    arrays = result.arrays.to_numpy_ndarrays()
    found = {"model": np.concatenate(arrays) if row.task == "linear" else predictions(arrays[0])}
    if hasattr(strategy, "clipping_norm"):
        found["clipping norm"] = np.array(strategy.clipping_norm)
    for side in ("train", "evaluate"):
        rounds = getattr(result, f"{side}_metrics_clientapp").values()
        for key in {key for metrics in rounds for key in metrics}:
            found[f"{side} {key}"] = np.array([metrics[key] for metrics in rounds])
    return found


def predictions(model: np.ndarray) -> np.ndarray:
    """What a forest says: bagging keeps its trees in the order in which they arrived."""
    return forest(model).predict(xgb.DMatrix(load_data(99)[0]))
