"""Secure aggregation in the engine: the head of the plain method over the survivors, on every grid, to the bit."""

import itertools
import json
import os
import signal
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from clients import afl as clients_afl
from clients import secagg as clients_secagg
from experiments.config.compose import compose
from experiments.main import main
from experiments.runner.compare import CLIENT_APP, describe
from fedlab.analytic import RandomReLU
from fedlab.data.federation import federate
from fedlab.data.partition import Dirichlet
from fedlab.data.sources.catalogue import Digits
from fedlab.engine.messages.records import from_record, records_of, round_of, to_record
from fedlab.engine.persistence.checkpoint import Checkpoints
from fedlab.engine.simulation.faults import Corrupt, Dropout, Duplicate, FaultPlan, Straggler
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput, ClientFailed
from fedlab.privacy.ridge.guarantee import Guarantee
from fedlab.stats import total_of
from strategies.afl import AFL
from strategies.air import TwoRounds
from strategies.app import digest, run
from strategies.dp_afl import DPAFL
from strategies.secagg import SecureAggregation

CLIENTS, SEED = 10, 5
SMALL = ["features.expansion.width=24", f"clients={CLIENTS}"]


@lru_cache
def config(method: str = "secagg_afl", *words: str) -> str:
    return json.dumps(describe(compose([f"methods=[{method}]", *SMALL, "tolerate=0.9", *words]), method))


def outcome(grid: Any, described: str, checkpoints: Checkpoints | None = None) -> tuple[dict[str, Any], str]:
    grid.restart({"config": described})
    result, arrays = run(MeteredGrid(grid), json.loads(described), checkpoints)
    assert result["head_sha256"] == digest(arrays)
    return result, result["head_sha256"]


def local(*faults: Any, words: tuple[str, ...] = (), method: str = "secagg_afl") -> dict[str, Any]:
    return outcome(LocalGrid(CLIENT_APP, CLIENTS, faults=faults, seed=SEED), config(method, *words))[0]


@lru_cache
def plain(gone: tuple[int, ...] = ()) -> tuple[str, str]:
    """Digests of the head and of the sum, solved at one place over the clients that are left."""
    everyone = federate(Digits(seed=0), Dirichlet(0.1), CLIENTS, 0)
    learner = clients_afl.AFL(10, RandomReLU(width=24, seed=0))
    splits = [everyone.client(client) for client in range(CLIENTS) if client not in gone]
    total = total_of(
        learner.observe(torch.from_numpy(split.inputs), torch.from_numpy(split.labels)) for split in splits
    )
    return digest(to_record({"weight": total.solve(1.0).numpy()})), total.sha256


def digests(result: dict[str, Any]) -> tuple[str, str]:
    return result["head_sha256"], result["statistics_sha256"]


# -- the head ----------------------------------------------------------------------------------------------


def test_the_head_and_the_sum_are_those_of_the_plain_method():
    found = local()
    assert digests(found) == plain() == digests(local(method="afl"))
    assert found["metrics"]["clients_in_sum"] == CLIENTS and found["rounds"] == 4


def test_keys_of_the_operating_system_give_the_same_head():
    one, other = (local(words=("entropy=os",)) for _ in range(2))
    assert digests(one) == digests(other) == plain()


@pytest.mark.parametrize(
    "fault", [Dropout(0.1), Straggler(0.1, delay=1.0, deadline=1e-9), Corrupt(0.1, "shape"), Corrupt(0.1, "keys")]
)
def test_whoever_is_lost_on_the_way_the_head_is_that_of_the_survivors(fault):
    found = local(fault, words=("methods.secagg_afl.strategy.dropout=0.5",))
    failed = tuple(sorted(map(int, found["faults"]["failed"])))
    in_sum = found["metrics"]["clients_in_sum"]
    assert 0 < CLIENTS - in_sum <= len(failed)  # who fails in the last round is in the sum all the same
    assert digests(found) in map(plain, itertools.combinations(failed, CLIENTS - in_sum))


def test_a_reply_that_comes_twice_counts_once():
    assert digests(local(Duplicate(0.5))) == plain()


def test_too_many_lost_and_there_is_no_head():
    with pytest.raises(BadInput, match=r"\d of 10 clients sent keys, 7 must: there is no sum; .* raise dropout"):
        local(Dropout(0.6))
    with pytest.raises(ClientFailed, match="the client dropped out"):
        local(Dropout(0.3), words=("tolerate=0",))


# -- leaving -----------------------------------------------------------------------------------------------


def test_who_leaves_is_not_in_the_head():
    found = local(words=("methods.secagg_afl.strategy.leave=[3,7]",))
    assert found["rounds"] == 5 and found["metrics"]["clients_in_sum"] == CLIENTS - 2
    assert digests(found) == plain((3, 7))


@pytest.mark.parametrize(
    ("leave", "why"),
    [
        ("[3]", "one that leaves alone its statistics"),
        ("[3,99]", r"leave=\[3, 99\]: the clients are 0..9, \[99\] are none"),
    ],
)
def test_a_departure_that_shows_too_much_or_of_the_unknown_is_refused(leave, why):
    with pytest.raises(BadInput, match=why):
        local(words=(f"methods.secagg_afl.strategy.leave={leave}",))


# -- streams -----------------------------------------------------------------------------------------------


class Away(FaultPlan):
    """Node 4 is gone when the first step's secrets are shared, node 6 when the second step's sums are uploaded."""

    def __bool__(self):
        return True

    def refusal(self, message):
        gone = (message.metadata.dst_node_id, round_of(message)) in ((4, 2), (6, 7))
        return ("it is away", False) if gone else None


def test_a_stream_ends_with_the_head_of_the_plain_learner_and_who_was_away_catches_up():
    words = ["methods=[acil]", *SMALL, "tolerate=0.9", "stream=class_incremental", "stream.phases=2"]
    described = describe(compose(words), "acil")
    whole = outcome(LocalGrid(CLIENT_APP, CLIENTS), json.dumps(described))[0]
    terms = {"dropout": 0.5, "colluding": 0.1, "entropy": "seeded"}
    inner, learner = described["strategy"], {**described["client"], "_partial_": True}
    described |= {
        "rounds": 4,
        "strategy": {"_target_": "strategies.secagg.SecureAggregation", "inner": inner, "seed": 0, **terms},
        "client": {"_target_": "clients.secagg.SecureAggregation", "learner": learner, **terms},
    }
    grid = LocalGrid(CLIENT_APP, CLIENTS)
    grid.plan = Away()
    found = outcome(grid, json.dumps(described))[0]
    assert sorted(found["faults"]["failed"]) == ["2", "4"] and found["rounds"] == 12
    assert digests(found) == digests(whole) and found["metrics"]["clients_in_sum"] == CLIENTS


# -- going on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entropy", ["seeded", "os"])
def test_a_run_that_is_cut_off_after_any_step_goes_on_to_the_same_bits(tmp_path, entropy):
    changes = [f"methods.secagg_afl.strategy.{word}" for word in ("leave=[5,6]", "dropout=0.5")]
    described = config("secagg_afl", *changes, f"entropy={entropy}")
    settings = json.loads(described)
    words: dict[str, Any] = {"faults": [Dropout(0.1)], "seed": SEED}
    whole = outcome(LocalGrid(CLIENT_APP, CLIENTS, **words), described)[0]

    class CutError(Exception):
        pass

    def cut(kind, **fields):
        if kind == "progress" and fields["done"] == 1:
            rounds.append(1)
            if len(rounds) == stop:
                raise CutError

    for stop in (2, 3, 4, 5):
        rounds: list[int] = []
        where = Checkpoints(tmp_path / f"{stop}", described)
        grid = LocalGrid(CLIENT_APP, CLIENTS, **words)
        grid.restart({"config": described})
        with pytest.raises(CutError):
            run(MeteredGrid(grid, cut), settings, where)
        where = Checkpoints(tmp_path / f"{stop}", described)
        found = outcome(LocalGrid(CLIENT_APP, CLIENTS, **words), described, where)[0]
        assert (digests(found), found["metrics"]) == (digests(whole), whole["metrics"])


def test_a_run_that_was_killed_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    killed, taken = tmp_path / "killed", SecureAggregation.aggregate_train

    def dying(self, server_round, replies):
        if server_round == 3:
            next(iter(replies))
            os.kill(os.getpid(), signal.SIGKILL)
        return taken(self, server_round, replies)

    child = os.fork()
    if not child:  # it has loaded everything already
        try:
            monkeypatch.setattr(SecureAggregation, "aggregate_train", dying)
            main(["run", "methods=[secagg_afl]", *SMALL, f"hydra.run.dir={killed}"])
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(list((killed / "checkpoints" / "secagg_afl").glob("round-000002*"))) == 1
    assert main(["run", f"resume={killed}"]) == 0
    assert digests(json.loads((killed / "results.json").read_text())) == plain()


@pytest.mark.parametrize("leave", [[4, 4], [4, 1.5], [True], ["a"], "a", 3])
def test_who_leaves_is_named_once_and_by_number(leave):
    with pytest.raises(BadInput, match="the numbers of different clients"):
        SecureAggregation(AFL(), leave=leave)


# -- what leaves a client ----------------------------------------------------------------------------------


def test_no_record_but_the_masked_arrays_leaves_a_client():
    seen = {}

    class Listening(LocalGrid):
        def stream(self, messages, **words):
            for reply in super().stream(messages, **words):
                assert list(reply.content) == ["arrays"]
                arrays = from_record(records_of(reply.content, ArrayRecord)["arrays"])
                seen.setdefault(len(arrays), set()).update(arrays)
                yield reply

    outcome(Listening(CLIENT_APP, CLIENTS), config())
    assert set().union(*seen.values()) == {
        "publics", "who", "sealed", "digests", "commitment", "masked", "digest", "layout", "shares"
    }  # fmt: skip


def test_a_client_that_lies_about_its_layout_or_sends_something_else_is_refused_by_name():
    def answering(change):
        from clients.app import app

        lying = ClientApp()

        @lying.train()
        def train(message, context):
            reply = app(message, context)
            if context.node_config["partition-id"] == 4:
                arrays = from_record(records_of(reply.content, ArrayRecord)["arrays"])
                if "masked" in arrays:
                    reply.content["arrays"] = to_record(change(arrays))
            return reply

        return LocalGrid(lying, CLIENTS)

    def wider(arrays):
        return {**arrays, "layout": arrays["layout"] + [0, 1, 0, 0, 0, 0]}

    def shorter(arrays):
        return {**arrays, "masked": arrays["masked"][:-1]}

    def plain_counts(arrays):
        return {"masked": arrays["masked"].astype(np.int64)}

    for change, why in (
        (wider, "laid out as Layout.*num_features=25"),
        (shorter, "are not the"),
        (plain_counts, "a layout"),
    ):
        grid = answering(change)
        with pytest.raises(ClientFailed, match=why) as refused:
            outcome(grid, config("secagg_afl", "tolerate=0"))
        assert refused.value.client == "4"


# -- what cannot be wrapped --------------------------------------------------------------------------------


def test_what_needs_each_clients_statistics_is_refused(tmp_path):
    for inner in (AFL(keep_clients=str(tmp_path)), AFL(late="merge")):
        with pytest.raises(BadInput, match="AFL wants each client's statistics"):
            SecureAggregation(inner)
    with pytest.raises(BadInput, match=r"leave=\[3\]: .* no noise but their own shares"):
        SecureAggregation(DPAFL(Guarantee(trust="distributed"), clients=CLIENTS), leave=[3])
    with pytest.raises(BadInput, match="TwoRounds takes 2 rounds: only what takes one can be summed"):
        SecureAggregation(TwoRounds())
    learner = partial(clients_afl.AFL, mode="float64")
    with pytest.raises(BadInput, match="mode=float64: only integers can be masked, say mode=exact"):
        clients_secagg.SecureAggregation(3, learner)


def test_seeded_keys_are_refused_in_a_deployment():
    class Deployed(LocalGrid):
        simulated = False

    strategy = SecureAggregation(AFL(), entropy="seeded")
    with pytest.raises(BadInput, match="entropy=seeded: who knows the seed can take the masks off"):
        strategy.configure_train(1, ArrayRecord(), ConfigRecord(), Deployed(ClientApp(), 3))


def test_a_step_that_nobody_knows_is_refused():
    grid = LocalGrid(CLIENT_APP, CLIENTS, {"config": config()})
    content = RecordDict({"arrays": ArrayRecord(), "config": ConfigRecord({"step": "kays", "session": b"s"})})
    (reply,) = grid.send_and_receive([Message(content, 2, "train")])
    assert reply.has_error() and "did you mean 'keys'" in (reply.error.reason or "")


# -- workers: last, for Ray's processes outlive the test that starts them -----------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same_head(workers):
    from fedlab.engine.simulation.ray_grid import RayGrid

    with RayGrid(CLIENT_APP, CLIENTS, num_workers=workers, cpus_per_worker=0.5, seed=SEED) as grid:
        assert digests(outcome(grid, config())[0]) == plain()
