"""legacy: the ClientApp."""

import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.common import Context


class FlowerClient(NumPyClient):
    def __init__(self, partition: int):
        self.data = np.random.default_rng(partition).normal(size=(10 + partition, 3))

    def fit(self, parameters, config):
        return [parameters[0] + 0.5 * (self.data.mean(axis=0) - parameters[0])], len(self.data), {}

    def evaluate(self, parameters, config):
        return float(((self.data - parameters[0]) ** 2).mean()), len(self.data), {}


def client_fn(context: Context):
    return FlowerClient(int(context.node_config["partition-id"])).to_client()


app = ClientApp(client_fn)
