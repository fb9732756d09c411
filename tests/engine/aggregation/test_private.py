"""What private strategies share: a grid that does not say it is simulated is real, for each of them."""

import pytest
from flwr.app import ArrayRecord, ConfigRecord
from flwr.clientapp import ClientApp

from fedlab.engine.aggregation.private import is_simulated
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput
from fedlab.llm.synthesis.budget import Budget
from fedlab.privacy.accounting.budget import PrivacyBudget
from fedlab.privacy.accounting.ledger import Ledger
from fedlab.privacy.ridge.guarantee import Guarantee
from strategies.afl import AFL
from strategies.dp_afl import DPAFL
from strategies.dp_fedavg import DPFedAvg
from strategies.dp_sgd import DPSGD
from strategies.fdkt import FDKT
from strategies.secagg import SecureAggregation

SAMPLE, CLIENT = PrivacyBudget(8.0), PrivacyBudget(8.0, unit="client")
PRIVATE = {
    "dp_afl": lambda: DPAFL(Guarantee(1.0)),
    "dp_fedavg": lambda: DPFedAvg(CLIENT, rounds=2),
    "dp_sgd": lambda: DPSGD(SAMPLE, rounds=2),
    "fdkt": lambda: FDKT(None, None, ["good", "bad"], Budget()),  # pyright: ignore[reportArgumentType]
    "secagg": lambda: SecureAggregation(AFL(), entropy="seeded"),
}


class Silent:
    """What a deployment's grid is to a strategy: nodes, and not a word on whether they are simulated."""

    def get_node_ids(self):
        return [2, 3, 4]


@pytest.mark.parametrize("name", PRIVATE)
def test_a_grid_that_does_not_say_it_is_simulated_is_real(name):
    strategy = PRIVATE[name]()
    strategy.ledger = Ledger(SAMPLE)
    for grid in (Silent(), MeteredGrid(Silent())):  # pyright: ignore[reportArgumentType]
        with pytest.raises(BadInput, match=r"entropy=seeded: .*in a deployment say entropy=os"):
            strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid)
    assert not strategy.ledger.releases


def test_only_a_plain_yes_is_a_yes():
    local = LocalGrid(ClientApp(), 3)
    assert is_simulated(local) and is_simulated(MeteredGrid(local))
    local.simulated = "yes"  # pyright: ignore[reportAttributeAccessIssue]
    assert not is_simulated(local)


def test_clients_of_a_simulation_are_charged_by_their_partitions_and_real_ones_by_their_nodes():
    strategy, local = PRIVATE["dp_sgd"](), LocalGrid(ClientApp(), 3)
    assert strategy.charged(local, [4, 2]) == (0, 2)
    assert strategy.charged(Silent(), [4, 2]) == (2, 4)
