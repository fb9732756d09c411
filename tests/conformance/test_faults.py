"""What each strategy makes of every fault, said as hashes of its final model.

dropout = straggler past the deadline = corrupt reply     the model of those who are left, whoever failed how
duplicate = crash of a worker = no fault                  the model of all
late: merge                                               AFL's model of all, again
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pytest
import torch

from clients.afl import AFL
from experiments.config.compose import compose
from experiments.runner.compare import CLIENT_APP, describe
from fedlab.analytic import RandomReLU
from fedlab.data.federation import federate
from fedlab.data.partition import Dirichlet
from fedlab.data.sources.catalogue import Digits
from fedlab.engine.simulation.faults import Corrupt, Crash, Dropout, Duplicate, Fault, Straggler
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.engine.simulation.simulated import SimulatedGrid
from fedlab.errors import ClientFailed
from strategies.app import digest, run

CLIENTS, RATE, SEED = 12, 0.3, 4
STRATEGIES = ("afl", "fedavg", "fedprox", "fedadam", "fedmedian", "krum")
CALM = (Crash(1e-9),)
"""Nothing happens, but every client is asked by itself, as wherever faults may strike: in stacks, floats differ."""
EXCLUDED = {
    "straggler": Straggler(RATE, delay=1.0, deadline=1e-9),
    **{f"corrupt {damage}": Corrupt(RATE, damage) for damage in ("nan", "shape", "dtype", "keys")},
}


@lru_cache
def config(method: str, late: str = "drop", tolerate: float = 0.9) -> dict[str, Any]:
    overrides = [f"methods=[{method}]", f"clients={CLIENTS}", "rounds=3", f"tolerate={tolerate}"]
    overrides += ["features.expansion.width=48", "cohort.fraction=1.0", "gradient.learning_rate=0.5"]
    if method == "afl":
        overrides.append(f"methods.afl.strategy.late={late}")
    return describe(compose(overrides), method)


def outcome(grid: SimulatedGrid, settings: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Return the digest of the final model, and who failed why."""
    grid.restart({"config": json.dumps(settings)})
    result, arrays = run(MeteredGrid(grid), settings)
    return digest(arrays), result["faults"]["failed"]


@lru_cache
def local(method: str, faults: tuple[Fault, ...] = (), late: str = "drop") -> tuple[str, dict[str, str]]:
    grid = LocalGrid(CLIENT_APP, CLIENTS, chunk=2, faults=faults, seed=SEED)
    return outcome(grid, config(method, late))


def head_of(clients: Sequence[int]) -> torch.Tensor:
    """The centralised head over the samples of these clients."""
    everyone = federate(Digits(seed=0), Dirichlet(0.1), CLIENTS, 0)
    learner = AFL(10, RandomReLU(width=48, seed=0))
    splits = [everyone.client(i) for i in clients]
    parts = [learner.observe(torch.from_numpy(s.inputs), torch.from_numpy(s.labels)) for s in splits]
    return sum(parts[1:], parts[0]).solve(1.0)


@pytest.mark.parametrize("method", STRATEGIES)
def test_who_is_left_decides_and_not_how_the_others_were_lost(method):
    without, dropped = local(method, (Dropout(RATE),))
    everyone, failed = local(method, CALM)
    assert 0 < len(dropped) < CLIENTS and not failed and without != everyone
    for name, fault in EXCLUDED.items():
        model, lost = local(method, (fault,))
        assert (model, sorted(lost)) == (without, sorted(dropped)), name


def test_afl_is_exact_over_those_who_answered():
    model, dropped = local("afl", (Dropout(RATE),))
    left = [i for i in range(CLIENTS) if str(i) not in dropped]
    from fedlab.engine.messages.records import to_record

    assert model == digest(to_record({"weight": head_of(left).numpy()}))


def test_a_late_client_is_one_more_term():
    late = (EXCLUDED["straggler"],)
    merged, failed = local("afl", late, "merge")
    assert merged == local("afl")[0] != local("afl", late)[0]
    assert failed == local("afl", late)[1]  # that they were late is still said


@pytest.mark.parametrize("method", STRATEGIES)
def test_a_reply_that_comes_twice_is_taken_once(method):
    assert local(method, (Duplicate(0.5),)) == local(method, CALM)


def test_every_refusal_names_the_client_and_the_reason():
    reasons = {
        "nan": "holds NaN or infinite numbers",
        "shape": "the model's is float32",
        "dtype": "complex64",
        "keys": "it holds the arrays",
    }
    for damage, expected in reasons.items():
        _, failed = local("krum", (Corrupt(RATE, damage),))
        assert failed and all(why.startswith("its reply was refused: ") for why in failed.values())
        assert all(expected in why for why in failed.values()), failed
    with pytest.raises(ClientFailed, match=r"client \d+ failed: .*its reply was refused: .*NaN"):
        outcome(
            LocalGrid(CLIENT_APP, CLIENTS, faults=[Corrupt(RATE, "nan")], seed=SEED), config("fedavg", tolerate=0.0)
        )


def test_beyond_the_tolerated_share_the_round_stops_with_the_list():
    _, dropped = local("afl", (Dropout(RATE),))
    tolerated = (len(dropped) - 1) / CLIENTS
    grid = LocalGrid(CLIENT_APP, CLIENTS, faults=[Dropout(RATE)], seed=SEED)
    with pytest.raises(ClientFailed, match="dropped out") as stopped:
        outcome(grid, config("afl", tolerate=tolerated))
    assert {stopped.value.client, *stopped.value.others} == set(dropped)
    assert f"({len(dropped) - 1} more clients failed: " in str(stopped.value)


@pytest.mark.slow
def test_ray_gives_the_same_models_and_survives_its_workers():
    from fedlab.engine.simulation.ray_grid import RayGrid

    storm = (Crash(0.2), Dropout(RATE), Duplicate(0.5))
    with RayGrid(CLIENT_APP, CLIENTS, num_workers=2, cpus_per_worker=0.5, chunk=2, faults=storm, seed=SEED) as grid:
        calm = local("afl", storm)  # LocalGrid has no worker to kill
        assert outcome(grid, config("afl")) == calm
        assert grid.restarts >= 1
