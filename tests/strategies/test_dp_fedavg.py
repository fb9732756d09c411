import math
import random

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from scipy.stats import chi2

from fedlab.engine.aggregation.rounds import run_rounds
from fedlab.engine.messages.records import from_record, to_record
from fedlab.engine.persistence.checkpoint import Checkpoints
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput
from fedlab.privacy.accounting.budget import PrivacyBudget
from fedlab.privacy.accounting.calibration import calibrate, certify
from fedlab.privacy.accounting.ledger import BudgetSpent, Ledger
from strategies.dp_fedavg import DPFedAvg
from tests.tolerance import assert_near, rounding

CLIENT = PrivacyBudget(epsilon=4.0, delta=1e-5, unit="client", relation="add_remove")
START = {"weight": np.linspace(-2, 2, 6000, dtype=np.float32).reshape(3, 2000), "bias": np.ones(3, np.float32)}
SIZE = 6003
K = 12


def update(k):
    """What client k adds to the model: some beyond a clip of 1, some within, one that does not move."""
    rng = np.random.default_rng(k)
    norm = [0.0, 0.3, 1.0, 50.0][k % 4]
    raw = {name: rng.normal(size=a.shape) for name, a in START.items()}
    return {name: a * norm / size(raw) for name, a in raw.items()}


def size(arrays):
    return math.sqrt(sum(float((np.asarray(a, np.float64) ** 2).sum()) for a in arrays.values()))


def moved_by(k):
    return {name: (START[name] + step).astype(np.float32) for name, step in update(k).items()}


def strategy(q=1.0, **settings):
    found = DPFedAvg(CLIENT, **{"rounds": 4, "clip": 1.0, "fraction_train": q, "noise_multiplier": 1.0, **settings})
    found.ledger = Ledger(PrivacyBudget(None, 1e-5, "client"))
    return found


def app_of(answer):
    app = ClientApp()

    @app.train()
    def train(message, context):
        k = int(context.node_config["partition-id"])
        told = MetricRecord({"num-examples": 10**k % 1009, "train-loss": float(k)})
        return Message(RecordDict({"arrays": to_record(answer(k)), "metrics": told}), reply_to=message)

    return app


def answers(found, answer=moved_by, server_round=1, clients=K):
    grid = LocalGrid(app_of(answer), clients)
    messages = found.configure_train(server_round, to_record(START), ConfigRecord(), grid)
    return list(grid.stream(messages))


def step(found, replies, server_round=1):
    """What a round adds to the model, float64."""
    arrays, metrics = found.aggregate_train(server_round, replies)
    assert metrics is None  # what clients tell of themselves goes nowhere
    return {name: a.astype(np.float64) - START[name] for name, a in from_record(arrays).items()}


def clipped(k):
    """Client k's update after float32, in norm at most 1."""
    found = {name: a.astype(np.float64) - START[name] for name, a in moved_by(k).items()}
    return {name: a * min(1.0, 1.0 / max(size(found), 1e-30)) for name, a in found.items()}


def flat(arrays):
    return np.concatenate([a.ravel() for a in arrays.values()])


# -- the sum ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [range(K), range(0, K, 2), [3], []], ids=["all", "half", "one", "none"])
def test_the_sum_of_clipped_updates_over_a_public_number_whoever_answered(there):
    found = strategy(noise_multiplier=1e-9)
    replies = [reply for k, reply in enumerate(answers(found)) if k in there]
    expected = sum((flat(clipped(k)) for k in there), np.zeros(SIZE)) / K  # nobody weighs by samples
    # What is compared is a difference of float32 models, each of which was rounded once.
    assert_near(flat(step(found, replies)), expected, 1, size=size(START))


def test_a_client_moves_the_sum_by_its_clip_at_most():
    found = strategy(noise_multiplier=1e-9)
    whole = flat(step(found, answers(found)))
    for k in range(K):
        found = strategy(noise_multiplier=1e-9)
        rest = [reply for j, reply in enumerate(answers(found)) if j != k]
        assert np.linalg.norm(whole - flat(step(found, rest))) * K <= 1.0 + K * rounding(1, size(START))


@pytest.mark.parametrize("there", [K, K // 2, 1, 0])
@pytest.mark.parametrize("q", [1.0, 0.5])
def test_the_noise_does_not_shrink_when_clients_drop_out(there, q):
    m, clip = 2.0, 3.0
    found = strategy(q, noise_multiplier=m, clip=clip)
    silent = answers(found, lambda k: START)  # nobody moves: what is left is noise
    noise = flat(step(found, silent[:there]))
    deviation = m * clip / (q * K)
    assert found.deviation == pytest.approx(deviation)
    low, high = chi2.ppf([1e-6, 1 - 1e-6], SIZE)
    statistic = float((noise**2).sum()) / deviation**2
    assert low < statistic < high
    assert not low < statistic / 4 < high and not low < statistic * 1.25 < high


def test_cohorts_are_poisson_samples_and_may_be_empty():
    q, rounds = 0.25, 200
    found = strategy(q, noise_multiplier=1.0)
    grid = LocalGrid(app_of(moved_by), 8)
    cohorts = [
        [m.metadata.dst_node_id for m in found.configure_train(r, to_record(START), ConfigRecord(), grid)]
        for r in range(1, rounds + 1)
    ]
    sizes = np.array([len(cohort) for cohort in cohorts])
    assert sizes.min() == 0 and sizes.max() >= 4
    assert abs(sizes.mean() - 8 * q) < 4 * math.sqrt(8 * q * (1 - q) / rounds)
    assert 0.75 < sizes.var() / (8 * q * (1 - q)) < 1.3  # a cohort of fixed size has none
    empty = int(np.flatnonzero(sizes == 0)[0]) + 1
    found = strategy(q, noise_multiplier=1.0)
    assert answers(found, server_round=empty, clients=8) == []
    assert size(step(found, [], empty)) > 0


# -- the same command, the same bits ----------------------------------------------------------------------------------


def test_noise_is_the_seeds_and_leaves_the_global_generator():
    def run(seed=0, server_round=1, entropy="seeded", answer=moved_by, order=1):
        found = strategy(seed=seed, entropy=entropy)
        np.random.seed(random.Random().randrange(2**32))  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        noisy = flat(step(found, answers(found, answer, server_round)[::order], server_round))
        assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
        return noisy

    first = run()
    assert np.array_equal(first, run()) and np.array_equal(first, run(order=-1))
    others = [run(seed=1), run(server_round=2), run(entropy="os"), run(entropy="os")]
    assert all(np.abs(a - b).max() > 0.1 / K for i, a in enumerate([first, *others]) for b in others[i:] if a is not b)
    # Noise that is the same on other updates would give away their difference.
    away = run(answer=lambda k: moved_by(k) if k else moved_by(1))
    assert np.linalg.norm(away - first) > 10 / K


def test_a_whole_run_says_what_it_cost():
    promise = PrivacyBudget(4.0, 1e-5, "client")
    found = DPFedAvg(promise, rounds=3, clip=1.0, fraction_train=1.0)
    found.ledger = Ledger(promise)
    with LocalGrid(app_of(moved_by), K) as grid:
        history = run_rounds(found, MeteredGrid(grid), to_record(START), 3)
        epsilon, delta = found.ledger.spent()
        m = calibrate(4.0, 1e-5, 1.0, 3)
        assert found.noise_multiplier == m and delta == 1e-5
        assert epsilon == pytest.approx(certify(m, 1.0, 3, 1e-5).epsilon, abs=1e-6)
        assert 3.9 < epsilon <= 4.0 * (1 + 1e-9)
        assert from_record(history.arrays)["weight"].dtype == np.float32
        # A round more is not in the budget: nobody is asked, nothing is spent.
        with pytest.raises(BudgetSpent, match="past the cap of 4"):
            found.configure_train(4, history.arrays, ConfigRecord(), grid)
    assert found.ledger.spent()[0] == epsilon
    assert found.report()["noise_multiplier"] == m and found.report()["notes"]


def test_sampling_makes_rounds_cheaper_and_all_clients_are_charged():
    promise = PrivacyBudget(4.0, 1e-5, "client")
    found = DPFedAvg(promise, rounds=1, fraction_train=0.1, noise_multiplier=1.0)
    found.ledger = Ledger(promise)
    step(found, answers(found))
    (release,) = found.ledger.releases
    assert release.clients is None and release.sampling_probability == 0.1
    assert found.ledger.spent()[0] == pytest.approx(certify(1.0, 0.1, 1, 1e-5).epsilon, abs=1e-6)
    assert found.ledger.spent()[0] < certify(1.0, 1.0, 1, 1e-5).epsilon / 2


def test_a_run_that_was_cut_off_goes_on_to_the_same_bits_and_the_same_bill(tmp_path):
    def run(rounds, checkpoints=None):
        found = strategy(0.5, rounds=3)
        with LocalGrid(app_of(moved_by), K) as grid:
            history = run_rounds(found, MeteredGrid(grid), to_record(START), rounds, checkpoints=checkpoints)
        return flat(from_record(history.arrays)), found.ledger.spent(), len(found.ledger.releases)

    whole, spent, releases = run(3)
    run(2, Checkpoints(tmp_path, "same", 1))
    again, spent_again, releases_again = run(3, Checkpoints(tmp_path, "same", 1))
    assert np.array_equal(whole, again)
    assert spent == spent_again and releases == releases_again == 3


def test_rounds_without_clients_are_rounds_of_noise():
    found = strategy(0.05, rounds=8)
    with LocalGrid(app_of(moved_by), 3) as grid:
        metered = MeteredGrid(grid)
        history = run_rounds(found, metered, to_record(START), 8)
    assert len(found.ledger.releases) == 8
    assert metered.traffic.bytes_up < 8 * 3 * 4 * SIZE / 2
    assert np.linalg.norm(flat(from_record(history.arrays)) - flat(START)) > 0


# -- refusals ---------------------------------------------------------------------------------------------------------


def damaged(change):
    arrays = {name: a.copy() for name, a in moved_by(3).items()}
    change(arrays)
    return arrays


BAD = {
    "NaN": (lambda a: a["weight"].__setitem__((1, 5), np.nan), "NaN or infinite"),
    "infinity": (lambda a: a["bias"].__setitem__(0, np.inf), "NaN or infinite"),
    "a shape": (lambda a: a.update(bias=np.ones(4, np.float32)), "bias is float32.4."),
    "a missing array": (lambda a: a.pop("bias"), "it holds the arrays"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_update_is_refused_before_it_can_pass_a_clip(name):
    change, message = BAD[name]
    found = strategy()
    replies = answers(found, lambda k: damaged(change) if k == 7 else moved_by(k))
    node = replies[7].metadata.src_node_id
    with pytest.raises(BadInput, match=rf"the reply of node {node} was refused: .*{message}"):
        found.aggregate_train(1, replies)
    assert found.ledger.releases == ()


def test_a_client_that_answers_twice_is_refused():
    found = strategy()
    replies = answers(found)
    twice = answers(found)[4]
    with pytest.raises(BadInput, match="answered twice"):
        found.aggregate_train(1, [*replies, twice])
    assert found.ledger.releases == ()


def test_nothing_happens_without_a_ledger():
    found = strategy()
    found.ledger = None
    with pytest.raises(BadInput, match="needs a ledger"):
        answers(found)


def test_clients_are_not_asked_what_nobody_noises():
    grid = LocalGrid(app_of(moved_by), K)
    assert list(strategy().configure_evaluate(1, ArrayRecord(), ConfigRecord(), grid)) == []
    assert strategy().aggregate_evaluate(1, []) is None


@pytest.mark.parametrize(
    ("privacy", "message"),
    [
        (PrivacyBudget(1.0, unit="sample"), "not one sample"),
        (PrivacyBudget(1.0, unit="client", relation="replace_one"), "replace_one"),
        (PrivacyBudget(None, unit="client"), "give an epsilon"),
    ],
)
def test_another_promise_is_refused(privacy, message):
    with pytest.raises(BadInput, match=message):
        DPFedAvg(privacy, rounds=1)


@pytest.mark.parametrize(
    ("setting", "value"), [("rounds", 0), ("clip", 0.0), ("clip", float("nan")), ("fraction_train", 0.0)]
)
def test_a_setting_out_of_range_is_named(setting, value):
    named = "sampling_probability" if setting == "fraction_train" else setting
    with pytest.raises(BadInput, match=f"{named}={value}"):
        strategy(**{setting: value})
