"""numbers: the ServerApp."""

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    minimum = dict.fromkeys(("min_available_nodes", "min_train_nodes", "min_evaluate_nodes"), config["min-nodes"])
    strategy = FedAvg(fraction_evaluate=1.0, **minimum)
    initial = ArrayRecord([np.zeros(config["data.size"])])
    result = strategy.start(grid, initial, num_rounds=config["num-server-rounds"])
    (model,) = result.arrays.to_numpy_ndarrays()
    losses = [metrics["loss"] for metrics in result.evaluate_metrics_clientapp.values()]
    history = (result.train_metrics_clientapp, result.evaluate_metrics_clientapp)
    calls = [metrics["calls"] for rounds in history for metrics in rounds.values()]
    print("the model is", model.round(3))
    if config["out"]:
        np.savez(config["out"], model=model, losses=losses, calls=calls)
