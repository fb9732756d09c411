"""After every round the server holds the solution over everything that any client has observed."""

import time

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedlab.analytic import DualStream
from fedlab.analytic.joint import Joint
from fedlab.engine.aggregation.rounds import run_rounds
from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.simulation.faults import Corrupt, Dropout, Straggler
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput
from fedlab.stats import GramStats, pack, total_of
from strategies.continual import Continual
from tests.draws import FIXED, same, statistics

D, C, CLIENTS, ROUNDS, SEED = 6, 3, 5, 4, 1


def observed(client, server_round, d=D):
    """What a client of these tests observes in a round; client 0 never observes anything."""
    return statistics(client * 3, d, C, 100 * server_round + client, FIXED)


def asked(answer=observed, faults=()):
    app = ClientApp()

    @app.train()
    def train(message, context):
        told, client = message.content.config_records["config"], int(context.node_config["partition-id"])
        rounds = [*told.get("missed-rounds", []), int(told["server-round"])]
        packed = pack(total_of(answer(client, t) for t in rounds))
        return Message(RecordDict({"arrays": to_record(packed)}), reply_to=message)

    return LocalGrid(app, CLIENTS, chunk=2, faults=faults, seed=SEED)


def one_round(strategy, grid, server_round):
    messages = strategy.configure_train(server_round, ArrayRecord(), ConfigRecord(), grid)
    arrays, _ = strategy.aggregate_train(server_round, grid.stream(messages))
    return torch.from_numpy(from_record(arrays)["weight"].copy()) if arrays else None


def phase(server_round):
    return total_of(observed(k, server_round) for k in range(CLIENTS))


def test_every_round_ends_with_the_joint_solution_so_far():
    strategy, grid = Continual(Joint(ridge=0.5)), asked()
    for t in range(1, ROUNDS + 1):
        head = one_round(strategy, grid, t)
        joint = total_of(phase(s) for s in range(1, t + 1))
        assert strategy.memory.total is not None and head is not None
        assert same(strategy.memory.total, joint) and torch.equal(head, joint.solve(0.5))


def test_the_order_of_the_rounds_does_not_matter_to_a_sum():
    heads: list[torch.Tensor] = []
    for order in ([1, 2, 3, 4], [3, 1, 4, 2]):
        strategy, grid = Continual(Joint(ridge=0.5)), asked()
        last = [one_round(strategy, grid, t) for t in order][-1]
        assert last is not None
        heads.append(last)
    assert torch.equal(*heads)


def test_dual_streams_are_those_of_the_pooled_phases():
    strategy, grid, pooled = Continual(DualStream()), asked(), DualStream()
    for t in range(1, ROUNDS + 1):
        head, pooled = one_round(strategy, grid, t), pooled.add(phase(t))
        assert head is not None and torch.equal(head, pooled.solution().weight)


def test_a_round_without_samples_changes_nothing():
    nobody = GramStats.zeros(D, C, FIXED.scale)
    strategy = Continual(Joint())
    assert one_round(strategy, asked(lambda client, _: nobody), 1) is None
    assert strategy.report() == {}
    before = one_round(strategy, asked(), 2)
    after = one_round(strategy, asked(lambda client, _: nobody), 3)
    assert before is not None and after is not None and torch.equal(before, after)


def test_a_refused_round_leaves_the_memory():
    strategy = Continual(Joint())
    one_round(strategy, asked(), 1)
    kept = strategy.report()
    with pytest.raises(BadInput, match=r"the reply of node .* was refused"):
        one_round(strategy, asked(lambda client, t: observed(client, t, D + (client == 3))), 2)
    with pytest.raises(BadInput, match="over 7"):
        one_round(strategy, asked(lambda client, t: observed(client, t, D + 1)), 2)
    assert strategy.report() == kept


def test_workers_may_add():
    strategy = Continual(Joint(ridge=0.5))
    history = run_rounds(strategy, MeteredGrid(asked()), ArrayRecord(), ROUNDS)
    joint = total_of(phase(s) for s in range(1, ROUNDS + 1))
    assert torch.equal(torch.from_numpy(from_record(history.arrays)["weight"].copy()), joint.solve(0.5))
    assert strategy.report()["samples"] == joint.count


@pytest.mark.parametrize(
    "fault",
    [Dropout(0.4), Straggler(0.4, delay=1.0, deadline=1e-9), Corrupt(0.4, "keys")],
    ids=["dropout", "straggler", "corrupt"],
)
@pytest.mark.parametrize("summed", [True, False], ids=["summed", "one by one"])
def test_a_client_that_failed_tells_what_it_missed(fault, summed):
    strategy, rounds = Continual(Joint(ridge=0.5)), 6
    if not summed:
        strategy.partial_sum = None
    history = run_rounds(strategy, MeteredGrid(asked(faults=[fault])), ArrayRecord(), rounds, tolerate=0.9)
    owed = {(node - 2, t) for node, missed in strategy.missed.items() for t in missed}
    told = [(k, t) for k in range(CLIENTS) for t in range(1, rounds + 1) if (k, t) not in owed]
    assert same(strategy.memory.total, total_of(observed(k, t) for k, t in told))
    # Some came back, and of some who did not it is said.
    assert {int(client) for client in history.failures} > {k for k, _ in owed} != set()
    assert (
        f"of {len(strategy.missed)} clients what they observed in {len(owed)} rounds" in strategy.report()["notes"][-1]
    )


def test_silence_is_told_like_failure(clock):
    # The clock passes before the second block answers: who was in it is asked for the round again.
    def slow(client, server_round):
        if client >= 2 and server_round == 1 and not woken:
            woken.append(client)
            time.sleep(0.5)
        return observed(client, server_round)

    woken: list[int] = []
    strategy = Continual(Joint(ridge=0.5))
    run_rounds(strategy, MeteredGrid(asked(slow)), ArrayRecord(), 1, timeout=0.3, tolerate=0.9)
    assert sorted(strategy.missed) == [4, 5, 6]
    grid = asked(slow)
    strategy.aggregate_train(2, grid.stream(strategy.configure_train(2, ArrayRecord(), ConfigRecord(), grid)))
    assert same(strategy.memory.total, phase(1) + phase(2)) and not strategy.missed


def test_a_checkpoint_keeps_the_memory():
    one, two = Continual(Joint(ridge=0.5)), Continual(Joint())
    grid = asked()
    one_round(one, grid, 1)
    two.load_state_dict(one.state_dict())
    assert two.report() == one.report()
    former, taken_up = one_round(one, grid, 2), one_round(two, grid, 2)
    assert former is not None and taken_up is not None and torch.equal(former, taken_up)
