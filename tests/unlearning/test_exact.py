"""Deleting is training without: for every memory, in any order, through any kill; what was never there is refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.acil import ACIL
from clients.aefocl import AEFOCL
from clients.afl import AFL
from clients.air import AIR
from clients.dsal import DSAL
from clients.gacl import GACL
from clients.gkeal import GKEAL
from fedlab.analytic import DualReLUTanh, DualStream, Filled, Joint, RandomRBF, RandomReLU, Tempered
from fedlab.engine.messages.records import to_record
from fedlab.engine.persistence.statistics_store import STATE, Keeper, Kept
from fedlab.engine.simulation.local_grid import LocalGrid
from fedlab.errors import BadInput
from fedlab.stats import pack, unpack
from fedlab.unlearning.exact import ExactUnlearning
from fedlab.unlearning.sums import Check
from strategies import afl
from strategies.continual import Continual
from tests.draws import samples

C, D0, CLIENTS, STEPS = 3, 5, 6, 3
RELU, RBF = RandomReLU(width=24), RandomRBF(width=24, sigma=1.5, low=-1.0)
LEARNERS = {
    "afl": (lambda mode: AFL(C, RELU, mode), lambda mode: Joint(0.5)),
    "acil": (lambda mode: ACIL(C, RELU, mode), lambda mode: Joint(0.1)),
    "acil-gcv": (lambda mode: ACIL(C, RELU, mode), lambda mode: Joint("gcv")),
    "gacl": (lambda mode: GACL(C, RELU, mode), lambda mode: Joint(0.1)),
    "gkeal": (lambda mode: GKEAL(C, RBF, mode), lambda mode: Joint(0.1)),
    "air": (lambda mode: AIR(C, RELU, mode), lambda mode: Tempered(0.1, tau=0.5)),
    "aefocl": (lambda mode: AEFOCL(C, RELU, mode), lambda mode: Filled(0.1, expansion=RELU, mode=mode)),
    "dsal": (lambda mode: DSAL(C, DualReLUTanh(width=12), mode), lambda mode: DualStream(0.6, 0.1, 0.1)),
}
EVERY = pytest.mark.parametrize("name", LEARNERS)
MODES = pytest.mark.parametrize("mode", ["exact", "float64"])


def met(client, step):
    """What a client of these tests meets; every third nothing at first, and of other classes in each step."""
    n = 0 if step == 0 and client % 3 == 2 else 3 + client + step
    x, labels = samples(n, D0, C, seed=100 * client + step)
    return x, (labels + step) % (C if step else C - 1)


def federation(folder, name, mode="exact", absent=(), keep=True):
    """Run the strategy over a stream of three steps (AFL: one) and return it; who is absent has no sample."""
    make, memory = LEARNERS[name]
    learner, app = make(mode), ClientApp()

    @app.train()
    def train(message, context):
        client, number = int(context.node_config["partition-id"]), message.content["config"]["server-round"]
        x, labels = met(client, number - 1)
        if client in absent:
            x, labels = x[:0], labels[:0]
        return Message(RecordDict({"arrays": to_record(learner.train({}, {}, x, labels, 0)[0])}), reply_to=message)

    kept = str(folder) if keep else None
    strategy = afl.AFL(0.5, kept) if name == "afl" else Continual(memory(mode), kept)
    for number in range(1, 2 if name == "afl" else STEPS + 1):
        grid = LocalGrid(app, CLIENTS)
        asked = strategy.configure_train(number, ArrayRecord(), ConfigRecord({"server-round": number}), grid)
        strategy.aggregate_train(number, grid.stream(asked))
    return strategy


def unlearning(folder, name, mode="exact"):
    return ExactUnlearning(folder, LEARNERS[name][1](mode), first=2)


def without(tmp_path, name, mode, absent):
    return federation(tmp_path / "none", name, mode, absent, keep=False).solution.weight


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def kept(tmp_path):
    federation(tmp_path / "kept", "afl")
    return tmp_path / "kept"


# -- deleting is training without ------------------------------------------------------------------------------


@EVERY
@MODES
def test_clients_that_left_leave_the_head_of_a_training_without_them(name, mode, tmp_path):
    strategy = federation(tmp_path, name, mode)
    sums = unlearning(tmp_path, name, mode)
    assert np.array_equal(sums.head(), strategy.solution.weight.numpy())
    check = Check("kept statistics", sums.summed)
    certificates = [sums.delete([4], check=check), sums.delete([0, 2], check=check)]
    again = without(tmp_path, name, mode, absent=(0, 2, 4))
    if mode == "exact":
        assert np.array_equal(sums.head(), again.numpy())
    else:
        assert np.allclose(sums.head(), again.numpy(), rtol=0, atol=1e-9 * float(again.abs().max()))
    assert all(one.retrained is not None and one.retrained.equal for one in certificates)
    assert sums.certificates == certificates
    assert {one.mode for one in certificates} == {mode}
    assert [one.samples for one in certificates] == [
        sum(len(met(k, s)[1]) for k in who for s in range(1 if name == "afl" else STEPS)) for who in ((4,), (0, 2))
    ]


@EVERY
def test_samples_that_left_leave_the_head_of_a_training_without_them(name, tmp_path):
    federation(tmp_path, name)
    sums, learner = unlearning(tmp_path, name), LEARNERS[name][0]("exact")
    steps = 1 if name == "afl" else STEPS
    phases = range(1, STEPS + 1) if name == "dsal" else [0]

    def observed(rows_of):
        found = {}
        for step in range(steps):
            x, labels = met(3, step)
            part, phase = learner.observe(x[rows_of], labels[rows_of]), step + 1 if name == "dsal" else 0
            found[phase] = found[phase] + part if phase in found else part
        return found

    gone = observed(slice(0, 2))
    sums.delete_samples(3, list(range(2 * steps)), gone, Check("kept", sums.summed))
    one_by_one = sums.head()
    sums.delete([3])
    assert np.array_equal(sums.head(), without(tmp_path, name, "exact", absent=(3,)).numpy())
    sums.add(3, observed(slice(2, None)), Check("kept", sums.summed))
    assert np.array_equal(sums.head(), one_by_one) and set(gone) == set(phases)


@pytest.mark.parametrize("name", ["afl", "dsal"])
def test_deletions_and_additions_come_in_any_order(name, tmp_path):
    heads = set()
    for number, order in enumerate([(1, 4, 5), (5, 4, 1), (4, 1, 5)]):
        folder = tmp_path / str(number)
        federation(folder, name)
        sums = unlearning(folder, name)
        back = {part.phase: unpack(sums.kept.arrays(part.stored)) for part in sums.parts(4)}
        for client in order:
            sums = unlearning(folder, name)  # as another process would open it
            sums.delete([client])
        deleted = sums.head()
        sums.add(4, back)
        heads.add((deleted.tobytes(), sums.head().tobytes()))
        assert sums.certificates[-1].kind == "addition" and len(sums.certificates) == 4
    assert heads == {
        tuple(without(tmp_path, name, "exact", absent).numpy().tobytes() for absent in ((1, 4, 5), (1, 5)))
    }


def test_what_left_is_nowhere_in_the_folder(kept):
    sums = unlearning(kept, "afl")
    (part,) = sums.parts(4)
    before = files(kept)
    sums.delete([4])
    after = files(kept)
    assert part.stored.file in before and part.stored.file not in after
    assert before[part.stored.file] not in after.values()
    assert len(after) == len(before) - 1


def test_an_interrupt_after_the_state_was_renamed_leaves_the_new_state(kept, monkeypatch):
    sums = unlearning(kept, "afl")
    sweep, calls = sums.kept.sweep, []

    def interrupted(state):
        calls.append(state)
        if len(calls) == 1:  # what is no longer named is about to be removed
            raise KeyboardInterrupt
        sweep(state)

    monkeypatch.setattr(type(sums.kept), "sweep", lambda _, state: interrupted(state))
    with pytest.raises(KeyboardInterrupt):
        sums.delete([4])
    monkeypatch.undo()
    again = unlearning(kept, "afl")
    assert again.head().shape  # whole
    with pytest.raises(BadInput, match="4"):
        again.delete([4])  # it has left already


def test_what_others_keep_in_the_folder_stays(kept):
    (kept / "notes.txt").write_text("mine")
    (kept / "weights.safetensors").write_text("mine too")
    unlearning(kept, "afl").delete([4])
    assert (kept / "notes.txt").exists() and (kept / "weights.safetensors").exists()


def test_a_client_may_send_again_what_was_lost(kept):
    sums, learner = unlearning(kept, "afl"), LEARNERS["afl"][0]("exact")
    sent = learner.train({}, {}, *met(4, 0), 0)[0]
    (kept / "6.safetensors").unlink()
    before = files(kept)
    with pytest.raises(BadInput, match=r"6\.safetensors cannot be read"):
        sums.delete([4])
    other = learner.train({}, {}, *met(3, 0), 0)[0]
    with pytest.raises(BadInput, match="what client 4 sends again is not what it sent first"):
        sums.delete([4], {4: [other]})
    assert files(kept) == before
    sums.delete([4], {4: [sent]})
    assert np.array_equal(sums.head(), without(kept.parent, "afl", "exact", absent=(4,)).numpy())


# -- refusals --------------------------------------------------------------------------------------------------


def observe(client, rows, label=None):
    x, labels = met(client, 0)
    labels = labels[rows] if label is None else torch.full((len(rows),), label)
    return {0: LEARNERS["afl"][0]("exact").observe(x[rows], labels)}


REFUSED = {
    "unknown": (lambda s: s.delete([6]), "client 6 was never added: the sums are of 5 clients, 0 to 5"),
    "negative": (lambda s: s.delete([-3]), "client -3 was never added"),
    "twice": (lambda s: s.delete([1]), "client 1 was deleted before"),
    "named twice": (lambda s: s.delete([4, 4]), "name each client once"),
    "nobody": (lambda s: s.delete([]), "name each client once"),
    "one of two": (lambda s: s.delete([4, 1]), "client 1 was deleted before"),
    "everybody": (lambda s: s.delete([0, 2, 3, 4, 5]), "no sample would be left"),
    "a sample twice": (lambda s: s.delete_samples(3, [30], observe(3, [0])), "row 30 of client 3 was deleted before"),
    "a sample named twice": (lambda s: s.delete_samples(4, [40, 40], observe(4, [0, 0])), "row 40 .* named twice"),
    "a sample of a deleted client": (
        lambda s: s.delete_samples(1, [10], observe(1, [0])),
        "client 1 was deleted before",
    ),
    "no sample": (lambda s: s.delete_samples(4, [], {}), "no sample of client 4 is named"),
    "more samples than rows": (lambda s: s.delete_samples(4, [40], observe(4, [0, 1])), "1 rows are named"),
    "samples of another": (lambda s: s.delete_samples(4, [50], observe(3, [1], label=2)), "cannot remove"),
    "another phase": (lambda s: s.delete_samples(4, [40], {7: observe(4, [0])[0]}), "client 4 sent nothing in phase 7"),
    "added twice": (lambda s: s.add(4, observe(4, [0])), "client 4 is in the sums already"),
    "of other features": (
        lambda s: s.add(9, {0: AFL(C, RandomReLU(width=8)).observe(*met(4, 0))}),
        "statistics over 24 features with statistics over 8",
    ),
    "another head": (
        lambda s: s.delete([4], check=Check("data", lambda state: {0: observe(4, [0])[0]})),
        "a training from data without client 4: .* has another head",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_deleted_is_refused_and_no_byte_changes(case, kept):
    sums = unlearning(kept, "afl")
    sums.delete([1])
    sums.delete_samples(3, [30], observe(3, [0]))
    before = files(kept)
    act, message = REFUSED[case]
    with pytest.raises(BadInput, match=message):
        act(sums)
    assert files(kept) == before


@pytest.mark.parametrize("which", ["6.safetensors", "total", "head", STATE])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_refused_and_no_byte_changes(which, how, kept):
    (path,) = kept.glob(f"{which}*")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1 if which != STATE else 0x80
    path.write_bytes(data if how == "flipped" else data[: len(data) // 2])
    if how == "gone":
        path.unlink()
    before = files(kept)
    with pytest.raises(BadInput, match=r"damaged|cannot be read"):
        unlearning(kept, "afl").delete([4])
    assert files(kept) == before


def test_a_changed_certificate_is_noticed(kept):
    sums = unlearning(kept, "afl")
    sums.delete([4])
    path = kept / STATE
    path.write_text(path.read_text().replace(sums.certificates[0].head_after, "0" * 64))
    with pytest.raises(BadInput, match="one was changed"):
        sums.delete([5])


def test_nothing_deleted_has_nothing_to_verify(kept):
    sums = unlearning(kept, "afl")
    with pytest.raises(BadInput, match="nothing was deleted yet"):
        sums.verify()
    sums.delete([4])
    retrained = sums.verify().retrained
    assert retrained is not None and retrained.equal and retrained.source == "kept statistics"


# -- kills and resumed runs ------------------------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from fedlab.analytic import Joint
from fedlab.engine.persistence import statistics_store as kept
from fedlab.unlearning.exact import ExactUnlearning

def counting(real):
    def call(*arguments):
        global steps
        if steps == 0:
            os.kill(os.getpid(), 9)
        steps -= 1
        return real(*arguments)
    return call

kept.write_atomically = counting(kept.write_atomically)
kept.remove = counting(kept.remove)
for steps, folder in enumerate(sys.argv[1:]):
    if os.fork() == 0:
        ExactUnlearning(Path(folder), Joint(0.5), 2).delete([4])
        os._exit(0)
    assert os.wait()[1] == 9
"""


@pytest.mark.slow
def test_a_kill_leaves_the_former_state_or_the_new_one(kept, tmp_path):
    before = unlearning(kept, "afl").head()
    after = without(tmp_path, "afl", "exact", absent=(4,)).numpy()
    later = without(tmp_path, "afl", "exact", absent=(4, 5)).numpy()
    folders = [tmp_path / f"killed{step}" for step in range(5)]  # total, head, state, and twice what is swept
    for folder in folders:
        shutil.copytree(kept, folder)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", KILLED, *map(str, folders)], env=env, check=True, timeout=120)
    seen = []
    for folder in folders:
        sums = unlearning(folder, "afl")
        done = bool(sums.certificates)
        seen.append(done)
        assert np.array_equal(sums.head(), after if done else before)
        if not done:
            sums.delete([4])
        sums.delete([5])  # and it goes on
        assert np.array_equal(sums.head(), later)
        assert set(files(folder)) == {STATE, *sums.kept.state().files}
    assert seen == [False, False, False, True, True]


def test_a_round_that_is_run_again_is_kept_once(tmp_path):
    statistics = LEARNERS["afl"][0]("exact").observe(*met(4, 0))
    keeper = Keeper(str(tmp_path))
    for number in (1, 2, 2, 3):  # the second was interrupted after it was kept
        keeper = Keeper(str(tmp_path))
        keeper.begin(number, known=number > 1)
        keeper.keep(6, pack(statistics), rounds=(number,))
        total = statistics
        for _ in range(number - 1):
            total = total + statistics
        keeper.close(total, Joint(0.5).add(total).solution())
    state = Kept(tmp_path).state()
    assert [part.rounds for part in state.clients[6]] == [(1,), (2,), (3,)]
    sums = ExactUnlearning(tmp_path, Joint(0.5), 2)
    assert torch.equal(sums.summed(state)[0].gram, (statistics + statistics + statistics).gram)
    keeper.begin()
    assert not (tmp_path / STATE).exists()


def test_missed_rounds_are_told(tmp_path):
    strategy = Continual(Joint(0.1), str(tmp_path))
    strategy.missed = {6: [1, 2]}
    strategy.memory = Joint(0.1)
    learner = LEARNERS["acil"][0]("exact")
    app = ClientApp()

    @app.train()
    def train(message, context):
        arrays = learner.train({}, {}, *met(int(context.node_config["partition-id"]), 1), 0)[0]
        return Message(RecordDict({"arrays": to_record(arrays)}), reply_to=message)

    grid = LocalGrid(app, CLIENTS)
    strategy.aggregate_train(3, grid.stream(strategy.configure_train(3, ArrayRecord(), ConfigRecord(), grid)))
    rounds = {node: [part.rounds for part in parts] for node, parts in Kept(tmp_path).state().clients.items()}
    assert rounds[6] == [(1, 2, 3)] and rounds[2] == [(3,)]
