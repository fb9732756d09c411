"""Means by block: what Flower's averaging strategies make of them is what they make of every reply."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower

from fedlab.engine.aggregation.averaging import AVERAGING, WeightedMean, partial_mean
from fedlab.engine.aggregation.rounds import History, run_rounds
from fedlab.engine.aggregation.strategy import FlowerStrategy
from fedlab.engine.messages.records import from_record, layout_of, to_record
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput, ClientFailed
from tests.tolerance import assert_near

START = {"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), "b": np.zeros(3, np.float32)}
LAYOUT = layout_of(to_record(START))
CLIENTS = 70  # three blocks, the last one short


def client_app(spoil=lambda partition, arrays: None) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context) -> Message:
        partition = int(context.node_config["partition-id"])
        rng = np.random.default_rng(partition)
        arrays = from_record(message.content.array_records["arrays"])
        arrays = {name: a + rng.normal(size=a.shape).astype(a.dtype) for name, a in arrays.items()}
        spoil(partition, arrays)
        metrics = MetricRecord({"num-examples": partition % 7, "train-loss": float(rng.random())})
        return Message(RecordDict({"arrays": to_record(arrays), "metrics": metrics}), reply_to=message)

    return app


def run(strategy, app, rounds=2, tolerate=0.0) -> tuple[History, MeteredGrid]:
    with LocalGrid(app, CLIENTS) as grid:
        metered = MeteredGrid(grid)
        return run_rounds(strategy, metered, to_record(START), rounds, tolerate=tolerate), metered


class Alone(FlowerStrategy):
    """A strategy of Flower's that is to get every reply by itself."""

    def partial_sum_of(self, messages):
        return None


@pytest.mark.parametrize("kind", AVERAGING, ids=lambda kind: kind.__name__)
def test_blocks_give_what_every_reply_gives(kind):
    def make():
        settings = {"proximal_mu": 0.1} if kind is flower.FedProx else {}
        return kind(fraction_evaluate=0.0, **settings)

    (blocks, sent), (each, sent_each) = run(make(), client_app()), run(Alone(make()), client_app())
    found, expected = from_record(blocks.arrays), from_record(each.arrays)
    assert_near(found, expected, 2 * CLIENTS)
    for name in START:
        assert found[name].dtype == np.float32
        assert np.abs(found[name] - START[name]).max() > 0.01
    assert sent.traffic.bytes_up == sent_each.traffic.bytes_up
    assert sent.traffic.bytes_down == sent_each.traffic.bytes_down


def test_the_mean_weighs_by_samples():
    rng = np.random.default_rng(0)
    models = [{name: rng.normal(size=a.shape).astype(np.float32) for name, a in START.items()} for _ in range(4)]
    counts, losses = [3, 0, 5, 1], [0.5, 99.0, 0.25, 1.0]
    mean = WeightedMean("arrays", LAYOUT)
    for model, n, loss in zip(models, counts, losses, strict=True):
        metrics = MetricRecord({"num-examples": n, "train-loss": loss})
        mean.add(RecordDict({"arrays": to_record(model), "told": metrics}))
    content = mean.content()
    found = from_record(content.array_records["arrays"])
    for name in START:
        expected = np.average([model[name].astype(np.float64) for model in models], axis=0, weights=counts)
        assert_near(found[name], expected, 1)  # what is sent is float32, the sum is not
    assert content.metric_records["told"]["num-examples"] == sum(counts)
    assert content.metric_records["told"]["train-loss"] == pytest.approx(np.average(losses, weights=counts))


def test_a_block_without_samples_weighs_nothing():
    mean = WeightedMean("arrays", LAYOUT)
    mean.add_arrays(START, {"num-examples": 0, "train-loss": 0.0})
    content = mean.content()
    assert content.metric_records["metrics"]["num-examples"] == 0
    assert not from_record(content.array_records["arrays"])["w"].any()


def damage(partition, arrays):
    if partition == 33:  # the second of its block
        arrays["w"][0, 0] = np.nan


def test_a_damaged_reply_is_its_clients_failure_and_nobody_elses():
    with pytest.raises(ClientFailed, match=r"(?s)33.*w holds NaN or infinite numbers"):
        run(flower.FedAvg(fraction_evaluate=0.0), client_app(damage))
    tolerant = {"tolerate": 0.1, "rounds": 1}
    blocks, _ = run(flower.FedAvg(fraction_evaluate=0.0), client_app(damage), **tolerant)
    each, _ = run(Alone(flower.FedAvg(fraction_evaluate=0.0)), client_app(damage), **tolerant)
    assert list(blocks.failures) == list(each.failures) == ["33"]
    assert_near(from_record(blocks.arrays), from_record(each.arrays), CLIENTS)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: {"w": a["w"]}, r"it holds the arrays \['w'\], the model has \['b', 'w'\]"),
        (lambda a: {**a, "b": a["b"][:2]}, r"b is float32\[2\], the model's is float32\[3\]"),
        (lambda a: {**a, "b": a["b"].astype(np.float64)}, r"b is float64\[3\], the model's is float32\[3\]"),
        (lambda a: {**a, "b": a["b"] + np.inf}, "b holds NaN or infinite"),
    ],
)
def test_what_is_not_like_the_model_is_refused(spoil, message):
    mean = WeightedMean("arrays", LAYOUT)
    mean.add_arrays(START, {"num-examples": 2})
    with pytest.raises(BadInput, match=message):
        mean.add_arrays(spoil(START), {"num-examples": 2})
    wrong = [{"num-examples": weight} for weight in (-1, np.nan, np.inf)]
    for metrics in ({}, *wrong, {"num-examples": 2, "many": [1.0, 2.0]}):
        with pytest.raises(BadInput, match="its metrics are"):
            mean.add_arrays(START, metrics)
    with pytest.raises(BadInput, match="it holds the records"):
        mean.add(RecordDict({"other": to_record(START), "metrics": MetricRecord({"num-examples": 1})}))
    assert np.array_equal(from_record(mean.content().array_records["arrays"])["w"], START["w"])


def test_who_needs_every_reply_gets_every_reply():
    content = RecordDict({"arrays": to_record(START), "config": ConfigRecord()})
    with LocalGrid(client_app(), 3):
        messages = [Message(content, 2, "train")]
        assert partial_mean(flower.FedAvg(), messages) is not None
        assert partial_mean(flower.FedAvg(), []) is None
        for kind in (flower.FedMedian, flower.Krum, flower.FedTrimmedAvg, flower.Bulyan):
            assert partial_mean(kind(), messages) is None
        assert partial_mean(flower.FedAvg(weighted_by_key="own"), messages) is None
        own = flower.FedAvg(train_metrics_aggr_fn=lambda contents, key: MetricRecord())
        assert partial_mean(own, messages) is None
        other = RecordDict({"arrays": ArrayRecord([np.arange(3)]), "config": ConfigRecord()})
        assert partial_mean(flower.FedAvg(), [Message(other, 2, "train")]) is None
