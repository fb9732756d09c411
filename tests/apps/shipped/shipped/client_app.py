"""shipped: clients that train whatever the strategy under way needs."""

import numpy as np
import xgboost as xgb
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod

PARAMS = {"objective": "reg:squarederror", "max_depth": 3, "eta": 0.3, "base_score": 0.0, "nthread": 1}
MODS = {"fixed": fixedclipping_mod, "adaptive": adaptiveclipping_mod}


def load_data(partition: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(partition)
    x = rng.normal(size=(20 + partition, 6)).astype(np.float32)
    return x, (x @ np.linspace(-1, 1, 6) + 0.3 * partition + rng.normal(size=len(x))).astype(np.float32)


def clip_where_asked(message: Message, context: Context, call_next) -> Message:
    """The mods of Flower refuse messages without a clipping norm; this app trains with and without."""
    mod = MODS.get(message.content["config"]["mod"])
    return mod(message, context, call_next) if mod else call_next(message, context)


app = ClientApp()


@app.query()
def which(message: Message, context: Context) -> Message:
    partition = int(context.node_config["partition-id"])
    return Message(RecordDict({"which": MetricRecord({"partition": partition})}), reply_to=message)


@app.train(mods=[clip_where_asked])
def train(message: Message, context: Context) -> Message:
    x, y = load_data(int(context.node_config["partition-id"]))
    arrays, config = message.content["arrays"], message.content["config"]
    if config["task"] == "linear":
        trained, loss = linear(arrays, x, y, float(config.get("proximal-mu", 0.0)))
    else:
        trained, loss = boosted(arrays, x, y, whole=config["task"] == "next tree")
    metrics = MetricRecord({"num-examples": len(x), "train_loss": loss})
    return Message(RecordDict({"arrays": trained, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    x, y = load_data(int(context.node_config["partition-id"]))
    model = message.content["arrays"].to_numpy_ndarrays()
    said = x @ model[0] + model[1] if len(model) == 2 else forest(model[0]).predict(xgb.DMatrix(x))
    metrics = MetricRecord({"num-examples": len(x), "loss": float(((said - y) ** 2).mean())})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def linear(arrays: ArrayRecord, x: np.ndarray, y: np.ndarray, mu: float) -> tuple[ArrayRecord, float]:
    """Three steps of gradient descent on a linear model, with FedProx's pull towards the start."""
    w, b = w0, b0 = arrays.to_numpy_ndarrays()
    loss = float(((x @ w + b - y) ** 2).mean())
    for _ in range(3):
        error = x @ w + b - y
        w = w - np.float32(0.1) * (x.T @ error / np.float32(len(x)) + np.float32(mu) * (w - w0))
        b = b - np.float32(0.1) * (error.mean(keepdims=True) + np.float32(mu) * (b - b0))
    return ArrayRecord(dict(zip(arrays, map(to_array, (w, b)), strict=True))), loss


def to_array(array: np.ndarray):
    return ArrayRecord([array])["0"]


def forest(model: np.ndarray) -> xgb.Booster:
    booster = xgb.Booster(PARAMS)
    booster.load_model(bytearray(model.tobytes()))
    return booster


def boosted(arrays: ArrayRecord, x: np.ndarray, y: np.ndarray, whole: bool) -> tuple[ArrayRecord, float]:
    """One more tree on the forest so far; bagging wants that tree alone, the cycle all of them."""
    data, model = xgb.DMatrix(x, label=y), arrays["0"].numpy().tobytes()
    if model:
        booster = forest(arrays["0"].numpy())
        booster.update(data, booster.num_boosted_rounds())
    else:
        booster = xgb.train(PARAMS, data, num_boost_round=1)
    loss = float(((booster.predict(data) - y) ** 2).mean())
    rounds = booster.num_boosted_rounds()
    sent = booster if whole else booster[rounds - 1 : rounds]
    return ArrayRecord([np.frombuffer(sent.save_raw("json"), dtype=np.uint8)]), loss
