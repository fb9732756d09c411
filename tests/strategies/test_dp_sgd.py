import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedlab.engine.aggregation.rounds import run_rounds
from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput
from fedlab.privacy.accounting.budget import PrivacyBudget
from fedlab.privacy.accounting.calibration import calibrate, certify
from fedlab.privacy.accounting.ledger import BudgetSpent, Ledger
from strategies.dp_sgd import DPSGD

PROMISE = PrivacyBudget(epsilon=2.0, delta=1e-5)
START = {"weight": np.zeros((3, 4), np.float32)}
K = 6


def strategy(**settings):
    fedavg = {"fraction_train": 1.0, "min_train_nodes": 1, "min_available_nodes": 1}
    found = DPSGD(PROMISE, **{"rounds": 2, "steps": 3, **fedavg, **settings})
    found.ledger = Ledger(PROMISE)
    return found


def app(asked):
    made = ClientApp()

    @made.train()
    def train(message: Message, context) -> Message:
        k = int(context.node_config["partition-id"])
        asked.append(k)
        arrays = {"weight": np.full((3, 4), k, np.float32)}
        told = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": to_record(arrays), "metrics": told}), reply_to=message)

    return made


def test_every_round_is_charged_before_anyone_is_asked_and_all_weigh_alike():
    found, asked = strategy(), []
    with LocalGrid(app(asked), K) as grid:
        metered = MeteredGrid(grid)
        messages = found.configure_train(1, to_record(START), ConfigRecord(), metered)
        (release,) = found.ledger.releases
        assert asked == [] and len(list(messages)) == K
        assert release.clients == tuple(range(K)) and release.steps == 3 and release.unit == "sample"
        # The same round again, of the same model: the same draw, which costs nothing more.
        found.configure_train(1, to_record(START), ConfigRecord(), metered)
        assert len(found.ledger.releases) == 1

        history = run_rounds(found, metered, to_record(START), 2)
        assert np.allclose(from_record(history.arrays)["weight"], (K - 1) / 2)
        m = calibrate(2.0, 1e-5, 1.0, 6)
        assert found.noise_multiplier == m
        assert found.ledger.spent()[0] == pytest.approx(certify(m, 1.0, 6, 1e-5).epsilon, abs=1e-6)
        assert 1.95 < found.ledger.spent()[0] <= 2.0 * (1 + 1e-9)
        told = len(asked)
        with pytest.raises(BudgetSpent):
            found.configure_train(3, history.arrays, ConfigRecord(), metered)
        assert len(asked) == told and len(found.ledger.releases) == 2


def test_only_those_who_are_asked_are_charged():
    found = strategy(fraction_train=0.5, noise_multiplier=5.0)
    with LocalGrid(app([]), K) as grid:
        messages = list(found.configure_train(1, to_record(START), ConfigRecord(), MeteredGrid(grid)))
    nodes = sorted(message.metadata.dst_node_id - 2 for message in messages)
    assert len(nodes) == 3
    spent = [found.ledger.spent(k)[0] for k in range(K)]
    assert [k for k in range(K) if spent[k]] == nodes


def test_fresh_noise_is_another_release():
    found = strategy(entropy="os", noise_multiplier=50.0)
    with LocalGrid(app([]), K) as grid:
        for _ in range(2):
            found.configure_train(1, to_record(START), ConfigRecord(), MeteredGrid(grid))
    assert len(found.ledger.releases) == 2


def test_nothing_happens_without_a_ledger():
    found = strategy()
    found.ledger = None
    with LocalGrid(app([]), K) as grid, pytest.raises(BadInput, match="needs a ledger"):
        found.configure_train(1, to_record(START), ConfigRecord(), MeteredGrid(grid))


@pytest.mark.parametrize(
    ("privacy", "settings", "message"),
    [
        (PrivacyBudget(1.0, unit="client"), {}, "not one client"),
        (PrivacyBudget(1.0, relation="replace_one"), {}, "replace_one"),
        (PrivacyBudget(None), {}, "give an epsilon"),
        (PROMISE, {"fraction_evaluate": 0.5}, "fraction_evaluate=0.5"),
    ],
)
def test_what_would_not_be_covered_is_refused(privacy, settings, message):
    with pytest.raises(BadInput, match=message):
        DPSGD(privacy, rounds=1, **settings)
