"""AIR in two rounds: counts, then sums with their weights; the head of sums class by class."""

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.air import AIR
from fedlab.analytic import RandomReLU
from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.errors import BadInput
from fedlab.stats import total_of
from strategies.air import TwoRounds
from tests.draws import samples

D0, C, CLIENTS = 6, 4, 5


def held(client):
    """Samples of a client; client 0 has none, and class 3 is rare."""
    x, labels = samples(client * 9, D0, C, client)
    return x, torch.where((labels == 3) & (torch.arange(len(x)) % 4 > 0), 0, labels)


def grid(form="two_rounds", silent=()):
    model, app = AIR(C, RandomReLU(24), form=form), ClientApp()

    @app.train()
    def train(message, context):
        client = int(context.node_config["partition-id"])
        config = dict(message.content.config_records["config"])
        if (client, config["server-round"]) in silent:
            raise RuntimeError("away")
        arrays, _ = model.train({}, config, *held(client), 0)
        return Message(RecordDict({"arrays": to_record(arrays)}), reply_to=message)

    return LocalGrid(app, CLIENTS)


def one_round(strategy, grid, server_round):
    messages = strategy.configure_train(server_round, ArrayRecord(), ConfigRecord(), grid)
    arrays, _ = strategy.aggregate_train(server_round, grid.stream(messages))
    return torch.from_numpy(from_record(arrays)["weight"].copy()) if arrays else None


@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0])
def test_two_rounds_end_with_the_head_of_sums_class_by_class(tau):
    strategy, here = TwoRounds(ridge=0.1, tau=tau), grid()
    assert one_round(strategy, here, 1) is None  # counts are no head
    head = one_round(strategy, here, 2)
    once = AIR(C, RandomReLU(24), tau=tau)
    pooled = total_of(once.observe(*held(client)) for client in range(CLIENTS))
    assert head is not None and torch.equal(head, once.fit(pooled, 0.1))
    assert strategy.report()["samples"] == sum(9 * client for client in range(CLIENTS))


def test_between_the_rounds_of_a_step_the_head_is_the_former_one():
    strategy, here = TwoRounds(), grid()
    one_round(strategy, here, 1)
    before = one_round(strategy, here, 2)
    between = one_round(strategy, here, 3)
    assert before is not None and between is not None and torch.equal(before, between)


def test_of_a_client_that_is_silent_in_the_second_round_nothing_is_in_the_head():
    strategy, here = TwoRounds(), grid(silent=[(4, 2)])
    one_round(strategy, here, 1)
    one_round(strategy, here, 2)
    assert strategy.report()["samples"] == 9 + 18 + 27
    assert strategy.counts is not None and strategy.counts.class_counts.sum() == 9 + 18 + 27 + 36


def test_a_client_that_answers_something_else_is_refused():
    with pytest.raises(BadInput, match="cannot combine ClassCounts with PerClass"):
        one_round(TwoRounds(), grid(form="per_class"), 1)


def test_a_client_that_was_not_counted_is_refused():
    # Everyone of class 3 is away in the first round: their samples have no weight.
    strategy, here = TwoRounds(), grid(silent=[(client, 1) for client in range(1, CLIENTS)])
    one_round(strategy, here, 1)
    messages = strategy.configure_train(2, ArrayRecord(), ConfigRecord(), here)
    errors = [reply.error.reason or "" for reply in here.stream(messages) if reply.has_error()]
    assert len(errors) == 4 and all("let this client take part in both rounds" in error for error in errors)


def test_a_checkpoint_keeps_what_the_second_round_needs():
    one, two, here = TwoRounds(), TwoRounds(), grid()
    one_round(one, here, 1)
    two.load_state_dict(one.state_dict())
    heads = [one_round(strategy, here, 2) for strategy in (one, two)]
    assert heads[0] is not None and heads[1] is not None and torch.equal(heads[0], heads[1])


def test_a_tempering_out_of_range_is_refused():
    with pytest.raises(BadInput, match=r"tau=2\.5 must be a finite number in \[0, 2\]"):
        TwoRounds(tau=2.5)
