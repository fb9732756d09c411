"""The private server: charges before it releases, noises once, and refuses what would break the promise."""

from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.dp_afl import DPAFL as Client  # noqa: N811 - the same method's other side
from fedlab.engine.aggregation.closed_form import ClosedForm
from fedlab.engine.messages.partial_sums import as_partial_sum
from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.errors import BadInput
from fedlab.privacy.accounting.ledger import BudgetSpent, Ledger
from fedlab.privacy.ridge.guarantee import Guarantee
from strategies.afl import AFL
from strategies.dp_afl import DPAFL

K = 4


def samples(client: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(client)
    return torch.rand(30, 5, generator=rng), torch.randint(0, 3, (30,), generator=rng)


def grid(guarantee: Guarantee) -> LocalGrid:
    """A grid of K clients that answer as the private client does."""
    app, model = ClientApp(), Client(3, mode="exact", bits=8, guarantee=guarantee, clients=K)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        return Message(
            RecordDict({"arrays": to_record(model.train({}, {}, *samples(client), client)[0])}), reply_to=message
        )

    return LocalGrid(app, K)


def replies(guarantee: Guarantee, stands: int | None = None) -> list[Message]:
    """What the clients answer; with `stands`, the first one's as if it were the sum of so many."""
    nodes = grid(guarantee)
    asked = AFL().configure_train(1, ArrayRecord(), ConfigRecord(), nodes)
    found = list(nodes.stream(asked))
    if stands is None:
        return found
    found[0].content = as_partial_sum(found[0].content, stands, 0)
    return found[:1]


def strategy(guarantee: Guarantee, **settings: object) -> DPAFL:
    made = DPAFL(guarantee, clients=K, **settings)  # pyright: ignore[reportArgumentType]
    made.ledger = Ledger(made.privacy)
    return made


def ask(made: DPAFL, server_round: int = 1) -> None:
    made.configure_train(server_round, ArrayRecord(), ConfigRecord(), grid(made.guarantee))


def test_central_noise_is_added_once_and_charged_first():
    guarantee = Guarantee(1.0)
    made = strategy(guarantee)
    ask(made)
    assert made.ledger is not None
    assert made.ledger.spent()[0] == 0  # a trusted server has released nothing yet
    arrays, _ = made.aggregate_train(1, replies(guarantee))
    assert made.ledger.spent()[0] == pytest.approx(1.0, rel=1e-3)
    assert made.statistics is not None
    assert made.statistics.gram_variance == pytest.approx(guarantee.deviations[0] ** 2)
    assert arrays is not None
    assert from_record(arrays)["weight"].shape == (5, 3)


def test_what_clients_release_is_charged_before_they_are_asked():
    made = strategy(Guarantee(1.0, trust="local"))
    ask(made)
    assert made.ledger is not None
    assert made.ledger.spent()[0] == pytest.approx(1.0, rel=1e-3)


def test_a_second_release_would_pass_the_cap():
    made = strategy(Guarantee(1.0, trust="local"))
    ask(made)
    ask(made)  # the same round, the same bits: a replay
    with pytest.raises(BudgetSpent, match="never refunded"):
        ask(made, 2)


def test_a_larger_cap_lets_two_by():
    made = strategy(Guarantee(1.0, trust="local", cap=2.0))
    for server_round in (1, 2):
        ask(made, server_round)
    assert made.ledger is not None
    assert 1.4 < made.ledger.spent()[0] < 1.6  # two Gaussians, less than twice one


def test_the_same_release_again_is_none_other():
    guarantee = Guarantee(1.0)
    made, heads = strategy(guarantee), []
    for _ in range(2):
        heads.append(made.aggregate_train(1, replies(guarantee))[0])
    one, two = (from_record(head)["weight"] for head in heads if head is not None)
    assert (one == two).all()
    assert made.ledger is not None
    assert made.ledger.spent()[0] == pytest.approx(1.0, rel=1e-3)


def test_noise_that_nobody_can_repeat_counts_again():
    guarantee = Guarantee(1.0)
    made = strategy(guarantee, entropy="os")
    made.aggregate_train(1, replies(guarantee))
    with pytest.raises(BudgetSpent):
        made.aggregate_train(1, replies(guarantee))


def test_other_sums_other_noise():
    """The same noise on two sums would give away their difference."""
    guarantee = Guarantee(1.0, cap=3.0)
    made = strategy(guarantee)
    noises = []
    for kept in (K, K - 1):
        some = replies(guarantee)[:kept]
        clean = sum((from_record(r.content["arrays"])["gram"].astype(float) for r in some), start=0.0)  # pyright: ignore[reportArgumentType]
        made.aggregate_train(1, some)
        assert made.statistics is not None
        scale = 127.0**2
        noises.append(float(made.statistics.gram[0, 0]) - float(clean[0]) / scale)  # pyright: ignore[reportIndexIssue]
    assert noises[0] != pytest.approx(noises[1])


def test_another_promise_other_noise():
    """Two multiples of the same normals on the same sums could be solved for the sums."""
    drawn = []
    for epsilon in (1.0, 2.0):
        guarantee = Guarantee(epsilon)
        made = strategy(guarantee)
        some = replies(guarantee)
        clean = sum(int(from_record(r.content["arrays"])["gram"][0]) for r in some)  # pyright: ignore[reportArgumentType]
        made.aggregate_train(1, some)
        assert made.statistics is not None
        drawn.append((float(made.statistics.gram[0, 0]) - clean / 127.0**2) / guarantee.deviations[0])
    assert drawn[0] != pytest.approx(drawn[1])


def test_shares_without_a_mask_are_refused():
    with pytest.raises(BadInput, match="dp_secagg_afl"):
        ask(strategy(Guarantee(trust="distributed")))


def test_too_few_shares_release_nothing():
    guarantee = Guarantee(trust="distributed", dropout=0.25)
    made = strategy(guarantee)
    made.secure = True
    ask(made)
    made.aggregate_train(1, replies(guarantee, stands=3))
    with pytest.raises(BadInput, match="2 clients' shares"):
        made.aggregate_train(1, replies(guarantee, stands=2))


def test_a_ledger_is_needed():
    with pytest.raises(BadInput, match="ledger"):
        DPAFL(Guarantee(), clients=K).aggregate_train(1, replies(Guarantee()))


def test_the_ridge_may_not_look():
    with pytest.raises(BadInput, match="gcv"):
        DPAFL(Guarantee(), ridge="gcv")


@pytest.mark.parametrize("ridge", [-1.0, float("nan"), "large"])
def test_a_ridge_is_checked_before_anything_is_asked(ridge: float | str):
    with pytest.raises(BadInput, match="ridge="):
        DPAFL(Guarantee(), ridge=ridge)


def test_a_deployment_must_not_repeat_its_noise():
    class Deployed:
        simulated = False

        def get_node_ids(self) -> list[int]:
            return [1]

    with pytest.raises(BadInput, match="entropy=os"):
        strategy(Guarantee()).configure_train(1, ArrayRecord(), ConfigRecord(), Deployed())  # pyright: ignore[reportArgumentType]


def test_the_report_counts_nobody():
    guarantee = Guarantee(1.0)
    made = strategy(guarantee)
    assert made.report() == {}
    made.aggregate_train(1, replies(guarantee))
    told = made.report()
    assert not {"samples", "saturated"} & set(told)
    assert any("seed" in str(note) for note in told["notes"])  # pyright: ignore[reportGeneralTypeIssues]
    assert isinstance(made, ClosedForm)
