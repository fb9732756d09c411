"""Every continual method over a stream of digits: the head does not tell who held what, and when.

exact     the same SHA-256 for every number of clients, skew, engine and availability
float64   heads to max(1e-10, 10 eps cond(G + gI)) of theirs

A new method enters by a name below.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from clients.acil import ACIL
from clients.dsal import DSAL
from experiments.config.compose import compose
from experiments.runner.compare import compare
from experiments.runner.simulation import override
from fedlab import world
from fedlab.analytic import DualReLUTanh, RandomReLU
from fedlab.data.partition import Iid
from fedlab.data.sources.catalogue import Digits
from fedlab.data.streams.tasks import ClassIncremental
from fedlab.features.backbones import Identity
from fedlab.report.result import Result
from fedlab.tracking.run_directory import RunDirectory

METHODS = ["acil", "gacl", "gkeal", "dsal", "air", "air_two_rounds", "aefocl"]
SUMS = [name for name in METHODS if name != "dsal"]
"""Methods whose head does not depend on the order of the phases."""
EVERY = pytest.mark.parametrize("method", METHODS)
WIDTH, PHASES = 48, 3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run some methods; the same settings run once. It is `fedlab run` without the figures."""
    known: dict[str, Result] = {}

    def simulate(*methods: str, **settings) -> Result:
        key = repr((methods, sorted(settings.items())))
        if key not in known:
            chosen = {
                "clients": 12,
                "features__expansion__width": WIDTH,
                "stream__phases": PHASES,
                "methods": list(methods),
                **settings,
            }
            cfg = compose(["experiment=cil_digits", *(override(*one) for one in chosen.items())])
            with RunDirectory(tmp_path_factory.mktemp("run")) as directory:
                known[key] = Result(directory.path, compare(cfg, directory))
        return known[key]

    return simulate


def heads(result: Result, *names: str) -> list[str]:
    return [result[name]["head_sha256"] for name in names]


@EVERY
@pytest.mark.parametrize("clients", [1, 60])
def test_the_partition_leaves_no_trace(run, method, clients):
    here, there = run(*METHODS), run(*METHODS, clients=clients)
    assert heads(here, method) == heads(there, method)
    assert here[method]["statistics_sha256"] == there[method]["statistics_sha256"]
    assert here[method]["metrics"]["steps"] == there[method]["metrics"]["steps"]


@EVERY
def test_the_skew_leaves_no_trace(run, method):
    assert heads(run(*METHODS), method) == heads(run(*METHODS, partition="iid"), method)


@pytest.mark.slow
@EVERY
def test_the_workers_leave_no_trace(run, method):
    there = run(*METHODS, engine="ray", engine__num_workers=2)
    assert heads(run(*METHODS), method) == heads(there, method)
    assert run(*METHODS)[method]["bytes_up_per_client"] == there[method]["bytes_up_per_client"]


@pytest.mark.parametrize("method", SUMS)
@pytest.mark.parametrize(
    "availability",
    [{"availability__lag": 2}, {"availability__late": 0.5}, {"availability__away": 0.5, "availability__spell": 2}],
    ids=["lag", "late", "away"],
)
def test_when_clients_come_leaves_no_trace_in_a_sum(run, method, availability):
    assert heads(run(*METHODS), method) == heads(run(*METHODS, **availability), method)


def test_a_client_that_returns_after_ten_tasks_is_all_there(run):
    steps = {"stream": "sample_incremental", "stream__phases": 13}
    away = {"availability__away": 0.5, "availability__spell": 10}
    here, there = run("acil", "air_two_rounds", **steps), run("acil", "air_two_rounds", **steps, **away)
    assert heads(here, "acil", "air_two_rounds") == heads(there, "acil", "air_two_rounds")
    met = [result["acil"]["metrics"]["steps"][5]["samples"] for result in (here, there)]
    assert met[1] < met[0]  # somebody was indeed away


@pytest.mark.parametrize("method", SUMS)
def test_a_client_that_failed_tells_what_it_missed(run, method):
    # With this seed clients drop out in steps 0 to 2, and nobody does in the last.
    calm, struck = run(method, seed=10), run(method, seed=10, faults=["dropout"], tolerate=0.9)
    assert struck[method]["faults"]["failed"]
    assert heads(calm, method) == heads(struck, method)


@EVERY
def test_float64_agrees_as_far_as_the_condition_allows(run, method):
    one, many = run(method, mode="float64", clients=1), run(method, mode="float64")
    steps = [[s["accuracy"] for s in result[method]["metrics"]["steps"]] for result in (one, many)]
    assert steps[0] == steps[1]
    weights = [load_file(result.directory / "model.safetensors")["weight"] for result in (one, many)]
    condition = one[method]["metrics"]["condition"]
    limit = max(1e-10, 10 * np.finfo(float).eps * condition)
    assert np.abs(weights[0] - weights[1]).max() <= limit * np.abs(weights[0]).max()


def test_every_step_is_the_joint_solution_of_one_machine(run):
    result = run("acil", "gacl", "centralised")
    assert len(set(heads(result, "acil", "gacl", "centralised"))) == 1
    assert result["acil"]["metrics"]["steps"] == result["centralised"]["metrics"]["steps"]


@pytest.mark.slow
def test_the_number_of_phases_leaves_no_trace_in_acil(run):
    cut = [run("acil", stream="sample_incremental", stream__phases=n, clients=3) for n in (1, 5, 50, 500)]
    assert len({heads(result, "acil")[0] for result in cut}) == 1


@pytest.fixture(scope="module")
def client_stream():
    """The stream of the runs above, on one machine."""
    source = Digits(split="stratified", seed=0)
    return world.build(source, Iid(), Identity(), 1, 0, stream=ClassIncremental(PHASES, 0.5))


def test_federated_ds_al_is_that_of_one_machine(run, client_stream):
    learner = DSAL(10, DualReLUTanh(WIDTH, 0))
    weight = learner.fit([learner.observe(*phase) for phase in client_stream.steps()], 0.1)
    stored = load_file(run("dsal").directory / "model.safetensors")["weight"]
    assert torch.equal(torch.from_numpy(stored), weight)


def test_federated_acil_is_that_of_one_machine(run, client_stream):
    learner = ACIL(10, RandomReLU(WIDTH, 0))
    phases = [learner.observe(*phase) for phase in client_stream.steps()]
    weight = learner.fit(sum(phases[1:], phases[0]), 0.1)
    stored = load_file(run("acil").directory / "model.safetensors")["weight"]
    assert torch.equal(torch.from_numpy(stored), weight)


@pytest.mark.parametrize("stream", ["class_incremental", "si_blurry"])
@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_both_forms_of_air_are_one_head_also_where_classes_return(run, stream, tau):
    taus = {"methods__air__strategy__memory__tau": tau, "methods__air_two_rounds__strategy__tau": tau}
    result = run("air", "air_two_rounds", stream=stream, **taus)
    assert len(set(heads(result, "air", "air_two_rounds"))) == 1
    steps = [result[name]["metrics"]["steps"] for name in ("air", "air_two_rounds")]
    assert steps[0] == steps[1]


def test_air_without_tempering_is_acil(run):
    result = run("acil", "air", methods__air__strategy__memory__tau=0.0)
    assert len(set(heads(result, "acil", "air"))) == 1


def test_two_streams_with_a_ratio_of_zero_predict_as_one(run):
    result = run("acil", "dsal", methods__dsal__strategy__memory__ratio=0.0)
    assert result["acil"]["metrics"]["steps"] == result["dsal"]["metrics"]["steps"]


def test_the_gradient_baselines_forget_less_the_more_they_keep(run):
    result = run("finetune", "replay", "joint", clients=6, gradient__learning_rate=1.0, rounds=5)
    last = [result[name]["metrics"]["forgetting"] for name in ("finetune", "replay", "joint")]
    assert last[0] > last[1] > last[2], last
    assert result["finetune"]["rounds"] == 5 * (PHASES + 1)
