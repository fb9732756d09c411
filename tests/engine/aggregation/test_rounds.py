"""The round loop against Flower's own: the same callbacks in the same order, and failures that surface."""

import logging
import random
import time

import numpy as np
import pytest
from flwr.app import ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)

from fedlab.engine.aggregation.rounds import run_rounds
from fedlab.engine.aggregation.strategy import FedlabStrategy
from fedlab.engine.messages.identity import SERVER_NODE
from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput, ClientFailed

START = {"w": np.arange(6.0).reshape(2, 3)}


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("flwr").setLevel(logging.ERROR)


def clients(fail=(), empty=(), slow=(), nodes=5, grid=LocalGrid) -> MeteredGrid:
    """A grid whose client k adds k to the model; some raise, hold no samples, or are slow."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context) -> Message:
        k = int(context.node_config["partition-id"])
        if k in fail:
            raise ValueError(f"bad sample in {k}")
        if k in slow:
            time.sleep(0.4)
        arrays = {name: array + k for name, array in from_record(message.content["arrays"]).items()}
        metrics = MetricRecord({"num-examples": 0 if k in empty else 10, "loss": float(k)})
        return Message(RecordDict({"arrays": to_record(arrays), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context) -> Message:
        k = int(context.node_config["partition-id"])
        if k in empty:  # no metric but its size: it has nothing to measure
            return Message(RecordDict({"metrics": MetricRecord({"num-examples": 0})}), reply_to=message)
        metrics = MetricRecord({"num-examples": k + 1, "accuracy": k / 10})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return MeteredGrid(grid(app, nodes))


def fedavg(**kwargs) -> FedAvg:
    return FedAvg(**{"fraction_evaluate": 0.0, "min_available_nodes": 1, "min_train_nodes": 1, **kwargs})


def run(grid, strategy=None, rounds=1, **kwargs):
    return run_rounds(strategy or fedavg(), grid, to_record(START), rounds, **kwargs)


class Recorder(FedAvg):
    """FedAvg that notes who called what."""

    def __init__(self):
        super().__init__(min_available_nodes=1)
        self.calls: list[tuple] = []

    def summary(self):
        pass

    def configure_train(self, server_round, arrays, config, grid):
        self.calls.append(("configure_train", server_round, float(from_record(arrays)["w"].sum())))
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        self.calls.append(("aggregate_train", server_round))
        return super().aggregate_train(server_round, replies)

    def configure_evaluate(self, server_round, arrays, config, grid):
        self.calls.append(("configure_evaluate", server_round, float(from_record(arrays)["w"].sum())))
        return super().configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round, replies):
        self.calls.append(("aggregate_evaluate", server_round))
        return super().aggregate_evaluate(server_round, replies)


def test_callbacks_come_in_flowers_order_with_flowers_arrays():
    ours, theirs = Recorder(), Recorder()
    random.seed(0)
    history = run(clients(), ours, 2, evaluate=lambda _, arrays: ours.calls.append(("evaluate",)) or {})
    random.seed(0)
    result = theirs.start(
        clients(), to_record(START), 2, evaluate_fn=lambda r, arrays: theirs.calls.append(("evaluate",))
    )
    assert ours.calls == theirs.calls
    assert from_record(history.arrays)["w"].tobytes() == from_record(result.arrays)["w"].tobytes()
    assert history.rounds == 2
    assert history.federated == result.evaluate_metrics_clientapp[2]


def test_the_clients_own_evaluation_is_kept():
    history = run(clients(), fedavg(fraction_evaluate=1.0, min_evaluate_nodes=1))
    assert history.federated["accuracy"] == pytest.approx(sum(k / 10 * (k + 1) for k in range(5)) / 15)
    # A client without samples has no accuracy, and Flower's strategies refuse replies of unequal keys.
    history = run(clients(empty=[4]), fedavg(fraction_evaluate=1.0, min_evaluate_nodes=1))
    assert history.federated["accuracy"] == pytest.approx(sum(k / 10 * (k + 1) for k in range(4)) / 10)
    assert run(clients()).federated == {}


def test_rounds_are_told_with_the_servers_own_metrics():
    grid, told = clients(), []
    grid.emit = lambda kind, **fields: told.append(fields) if kind == "round" else None
    history = run(grid, rounds=2, evaluate=lambda _, arrays: {"accuracy": float(from_record(arrays)["w"][0, 0])})
    assert [(event["round"], event["accuracy"]) for event in told] == [(0, 0.0), (1, 2.0), (2, 4.0)]
    assert [event["bytes_up"] for event in told] == sorted(event["bytes_up"] for event in told)
    assert set(history.seconds) == {"train", "aggregate", "evaluate"} and min(history.seconds.values()) >= 0


def test_a_failing_client_stops_the_run_with_its_name_and_traceback():
    with pytest.raises(ClientFailed, match=r"client 3 failed: Traceback[\s\S]+ValueError: bad sample in 3") as caught:
        run(clients(fail=[3]))
    assert (caught.value.client, caught.value.others) == ("3", ())


def test_so_many_may_fail_as_are_tolerated():
    random.seed(0)
    history = run(clients(fail=[1, 3]), tolerate=0.4)
    assert sorted(history.failures) == ["1", "3"]
    assert history.failures["1"].rstrip().endswith("ValueError: bad sample in 1")
    assert np.allclose(from_record(history.arrays)["w"], START["w"] + (0 + 2 + 4) / 3)
    with pytest.raises(ClientFailed, match=r"bad sample in \d\n\(2 more clients failed: \d, \d\)"):
        run(clients(fail=[0, 1, 3]), tolerate=0.4)


def test_a_share_means_the_clients_it_says():
    # 0.29 * 100 is 28.999999999999996 in floating point.
    assert len(run(clients(fail=range(29), nodes=100), tolerate=0.29).failures) == 29


@pytest.mark.parametrize("tolerate", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(tolerate):
    with pytest.raises(BadInput, match=r"tolerate=.* must be a finite number in \[0, 1\)"):
        run(clients(), tolerate=tolerate)


def test_clients_without_samples_have_no_say():
    history = run(clients(empty=[4]))
    assert np.allclose(from_record(history.arrays)["w"], START["w"] + 1.5)


SMALL = {"min_available_nodes": 1, "min_train_nodes": 1, "fraction_evaluate": 0.0}
EVERY_KIND = [FedAvg, FedAvgM, FedAdam, FedAdagrad, FedYogi, FedMedian, FedTrimmedAvg, Krum, MultiKrum]


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.__name__)
def test_a_round_of_clients_without_samples_leaves_the_model_as_it_is(kind: type[Strategy]):
    history = run(clients(empty=range(5)), kind(**SMALL), rounds=2)  # pyright: ignore[reportCallIssue]
    assert from_record(history.arrays)["w"].tobytes() == START["w"].tobytes()
    assert history.rounds == 2


def _q_fed_avg(**settings) -> QFedAvg:
    return QFedAvg(client_learning_rate=0.1, train_loss_key="loss", **settings)


@pytest.mark.parametrize("kind", [*EVERY_KIND, _q_fed_avg], ids=lambda kind: kind.__name__)
def test_a_model_keeps_the_number_type_that_its_clients_train(kind):
    start = {"w": START["w"].astype(np.float32)}
    history = run_rounds(kind(**SMALL), clients(), to_record(start), num_rounds=2)
    assert from_record(history.arrays)["w"].dtype == np.float32


def test_a_strategy_with_too_few_replies_says_what_to_change():
    with pytest.raises(BadInput, match=r"round 1: Bulyan made no model of 5 replies, .* ask more clients"):
        run(clients(), Bulyan(**SMALL, num_malicious_nodes=1))


def test_late_clients_stop_the_run_unless_tolerated(clock):
    random.seed(1)
    with pytest.raises(
        BadInput, match=r"\d of 5 clients did not answer within 0.2 s: raise the timeout, or `tolerate`"
    ):
        run(clients(slow=range(5)), timeout=0.2)
    history = run(clients(slow=[4]), _InOrder(), timeout=0.3, tolerate=0.2)
    assert np.allclose(from_record(history.arrays)["w"], START["w"] + 1.5)
    # One failed and one late are two, and only one may be missing.
    with pytest.raises(BadInput, match=r"1 of 5 clients did not answer within 0.3 s, 1 failed: .*now 1 of the"):
        run(clients(fail=[0], slow=[4]), _InOrder(), timeout=0.3, tolerate=0.2)


class _InOrder(FedAvg):
    """Asks every node, in their order."""

    def __init__(self):
        super().__init__(fraction_evaluate=0.0)

    def configure_train(self, server_round, arrays, config, grid):
        content = RecordDict({"arrays": arrays, "config": config})
        return [Message(content, node, "train") for node in grid.get_node_ids()]


def test_an_error_of_the_infrastructure_is_traced_to_the_node_that_was_asked():
    class Lost(LocalGrid):
        """Answers for node 4 as the SuperLink does when a node is gone."""

        def stream(self, messages, *, timeout=None, partial_sum=None):
            for reply, message in zip(super().stream(messages), messages, strict=True):
                if message.metadata.dst_node_id == 4:
                    reply = Message(Error(5, "node unavailable"), reply_to=message)
                    reply.metadata.__dict__["_src_node_id"] = SERVER_NODE
                yield reply

    with pytest.raises(ClientFailed, match="client 2 failed: node unavailable"):
        run(clients(grid=Lost), _InOrder())


def test_a_strategy_that_makes_no_model_of_good_replies_is_told():
    class Forgetful(FedAvg):
        def aggregate_train(self, server_round, replies):
            return None, None

    with pytest.raises(BadInput, match="round 1: Forgetful made no model of 5 replies"):
        run(clients(), Forgetful(**SMALL))


def test_a_streaming_strategy_sees_replies_as_they_come_and_holds_none():
    seen = []

    class Streaming(_InOrder, FedlabStrategy):
        streaming = True

        def aggregate_train(self, server_round, replies):
            assert not isinstance(replies, list)
            for reply in replies:
                seen.append(reply.metadata.src_node_id)
                raise_on = len(seen) == 3
                if raise_on:
                    raise BadInput("the reply of node 4 was refused")
            return ArrayRecord(), None

    with pytest.raises(BadInput, match="node 4 was refused"):
        run(clients(), Streaming())
    assert seen == [2, 3, 4]


def test_a_model_is_evaluated_only_once_there_is_one():
    grid, told = clients(), []
    grid.emit = lambda kind, **fields: told.append(fields["round"]) if kind == "round" else None
    run_rounds(_FromNothing(), grid, ArrayRecord(), 1, lambda _, arrays: {"n": len(arrays)})
    assert told == [1]


class _FromNothing(_InOrder):
    def aggregate_train(self, server_round, replies):
        assert len(list(replies)) == 5
        return to_record(START), None
