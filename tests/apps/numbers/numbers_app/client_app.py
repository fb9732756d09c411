"""numbers: the ClientApp."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from numbers_app.task import load_data


def double_the_weight(message: Message, context: Context, call_next) -> Message:
    reply = call_next(message, context)
    for metrics in reply.content.metric_records.values():
        metrics["num-examples"] *= 2
    return reply


def count_the_calls(message: Message, context: Context, call_next) -> Message:
    calls = context.state["calls"]["times"] + 1 if "calls" in context.state else 1
    context.state["calls"] = MetricRecord({"times": calls})
    reply = call_next(message, context)
    for metrics in reply.content.metric_records.values():
        metrics["calls"] = calls
    return reply


app = ClientApp(mods=[count_the_calls])


@app.lifespan()
def lifespan(context: Context):
    context.node_config["awake"] = True
    yield
    context.node_config["awake"] = False


def mean(context: Context):
    partition = int(context.node_config["partition-id"])
    config = context.run_config
    return load_data(partition, config["data.size"], config["data.shift"]).mean(axis=0), partition


@app.train(mods=[double_the_weight])
def train(message: Message, context: Context) -> Message:
    assert context.node_config["awake"]
    own, partition = mean(context)
    if str(partition) in context.run_config["fail"].split(","):
        raise ValueError(f"partition {partition} holds no numbers")
    (model,) = message.content["arrays"].to_numpy_ndarrays()
    # The state remembers the last step: momentum.
    step = own - model
    if "step" in context.state:
        (last,) = context.state["step"].to_numpy_ndarrays()
        step = step + 0.5 * last
    context.state["step"] = ArrayRecord([step])
    content = {"arrays": ArrayRecord([model + 0.3 * step]), "metrics": MetricRecord({"num-examples": partition + 1})}
    return Message(RecordDict(content), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    own, _ = mean(context)
    (model,) = message.content["arrays"].to_numpy_ndarrays()
    metrics = MetricRecord({"loss": float(((model - own) ** 2).sum()), "num-examples": 20})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
