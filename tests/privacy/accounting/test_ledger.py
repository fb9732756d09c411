"""The ledger: what it counts, what it refuses, and that no death makes it forget or count twice."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.engine.persistence.checkpoint import Checkpoints
from fedlab.errors import BadInput
from fedlab.privacy.accounting import privacy_loss as accounting
from fedlab.privacy.accounting.budget import PrivacyBudget
from fedlab.privacy.accounting.ledger import BudgetSpent, Ledger, opened
from fedlab.privacy.accounting.release import Release, fresh_id, numbers, ranges, seeded_id
from fedlab.privacy.mechanisms.gaussian import epsilon_of, multiplier

DELTA = 1e-5
KILLS = 25


def noise(name: str, m: float = 10.0, **more) -> Release:
    return Release(name, f"release {name}", "gaussian", noise_multiplier=m, **more)


def ids(path: Path) -> list[str]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["release"]["id"] for line in lines if "release" in line]


# -- counting ----------------------------------------------------------------------------------------------------


def test_releases_compose_and_a_replay_costs_nothing_again():
    ledger = Ledger(PrivacyBudget())
    assert ledger.spent() == (0.0, DELTA)
    ledger.charge(noise("a"))
    ledger.charge(noise("a"))
    ledger.charge(noise("a"), noise("b"), noise("b"))
    assert [release.id for release in ledger.releases] == ["a", "b"]
    assert ledger.spent()[0] == pytest.approx(epsilon_of(10.0 / 2**0.5, DELTA))
    ledger.charge(noise(fresh_id()), noise(fresh_id()))  # fresh draws are further releases
    assert ledger.spent()[0] == pytest.approx(epsilon_of(5.0, DELTA))


def test_an_id_stands_for_one_release():
    ledger = Ledger(PrivacyBudget())
    ledger.charge(noise("a"))
    with pytest.raises(BadInput, match="equal ids mean"):
        ledger.charge(noise("b"), noise("a", 11.0))
    assert len(ledger.releases) == 1


def test_seeded_ids_name_everything_that_was_given():
    assert seeded_id("dp_afl", 0, 1) == seeded_id("dp_afl", 0, 1)
    assert len({seeded_id("dp_afl", 0, 1), seeded_id("dp_afl", 0, 2), seeded_id("dp_afl", 1, 1), fresh_id()}) == 4


def test_clients_have_compositions_of_their_own():
    ledger = Ledger(PrivacyBudget(delta=DELTA))
    ledger.charge(noise("all"), noise("some", clients=(2, 1, 2)), noise("one", clients=(2,)))
    ledger.charge(Release("votes", "votes", "pure", epsilon=0.5, clients=(7,)))
    of = [epsilon_of(10.0 / n**0.5, DELTA) for n in (1, 2, 3)]
    spent = [ledger.spent(client)[0] for client in (99, 1, 2, 7)]
    assert spent == pytest.approx([of[0], of[1], of[2], of[0] + 0.5], rel=1e-9)
    assert ledger.spent()[0] == max(spent)
    assert list(ledger.groups().values()) == [[7], [2], [1], []]
    assert ledger.statement() == {
        "epsilon": max(spent),
        "delta": DELTA,
        "unit": "sample",
        "relation": "add_remove",
        "cap": None,
        "releases": 4,
        "mechanisms": ["gaussian", "pure"],
        "clients": 3,
    }


def test_the_most_that_anyone_spent_is_found_without_composing_everyone(monkeypatch):
    ledger, composed = Ledger(PrivacyBudget()), []
    for client in range(30):
        q = 0.001 * (client + 1)
        kind = {"noise_multiplier": 1.0, "sampling_probability": q, "steps": 20}
        ledger.charge(Release(fresh_id(), "steps", "subsampled_gaussian", **kind, clients=(client,)))
    compute = accounting.distribution_epsilon
    monkeypatch.setattr(accounting, "distribution_epsilon", lambda *args: composed.append(args) or compute(*args))
    most = ledger.spent()[0]
    assert len(composed) < 30 and sum(args[-1] == accounting.INTERVALS[-1] for args in composed) <= 2
    assert most == ledger.spent(29)[0] > ledger.spent(28)[0]


def test_units_and_relations_have_no_common_number():
    ledger = Ledger(PrivacyBudget(unit="sample"))
    for other in ({"unit": "client"}, {"relation": "replace_one"}):
        with pytest.raises(BadInput, match="no common number"):
            ledger.charge(noise("a", **other))
    assert ledger.releases == ()


def test_what_cannot_be_stated_is_null():
    ledger = Ledger(PrivacyBudget())
    ledger.charge(Release("a", "skellam", "stated", epsilon=1.0, delta=2e-5))
    assert ledger.statement()["epsilon"] is None
    assert ledger.spent() == (float("inf"), DELTA)


# -- the cap -----------------------------------------------------------------------------------------------------


def test_a_cap_refuses_and_changes_not_a_byte(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Ledger(PrivacyBudget(epsilon=1.0), path) as ledger:
        ledger.charge(noise("a", 4.0))
        before, spent = path.read_bytes(), ledger.spent()
        with pytest.raises(BudgetSpent, match=r"release b.* past the cap of 1; 0\.9\d* is spent") as refused:
            ledger.charge(noise("free", 1000.0), noise("b", 4.0))
        assert (refused.value.spent, refused.value.cap) == (spent[0], 1.0)
        assert refused.value.after > 1.0
        assert not ledger.affords(noise("b", 4.0))
        assert (path.read_bytes(), ledger.spent(), len(ledger.releases)) == (before, spent, 1)
        ledger.charge(noise("a", 4.0))  # its replay is paid for
        ledger.charge(noise("c", 1000.0))  # and what is small enough still goes
        assert ledger.spent()[0] <= 1.0


def test_only_those_who_are_asked_can_be_past_the_cap():
    ledger = Ledger(PrivacyBudget(epsilon=1.0))
    ledger.charge(noise("a", 4.0, clients=(0, 1)))
    assert ledger.affords(noise("b", 4.0, clients=(2, 3)))
    with pytest.raises(BudgetSpent, match="client 1 would"):
        ledger.charge(noise("b", 4.0, clients=(1, 2)))
    with pytest.raises(BudgetSpent, match="client 0 would"):
        ledger.charge(noise("c", 4.0))
    assert ledger.spent(2)[0] == 0.0


@settings(max_examples=50, deadline=None)
@given(st.floats(0.05, 20), st.floats(-9, -2))
def test_noise_made_for_a_cap_fits_under_it_and_less_does_not(epsilon, exponent):
    delta = 10**exponent
    m = multiplier(epsilon, delta)
    ledger = Ledger(PrivacyBudget(epsilon, delta))
    assert not ledger.affords(noise("less", m * 0.999))
    ledger.charge(noise("a", m))
    assert ledger.spent()[0] == pytest.approx(epsilon, rel=1e-6)


def test_far_from_the_cap_nothing_is_composed_anew(monkeypatch):
    monkeypatch.setattr(accounting, "distribution_epsilon", lambda *_: pytest.fail("it was composed"))
    ledger = Ledger(PrivacyBudget(epsilon=8.0))
    for number in range(200):
        kind = {"noise_multiplier": 1.0, "sampling_probability": 0.01, "steps": 5}
        ledger.charge(Release(str(number), "steps", "subsampled_gaussian", **kind))


# -- on disk -----------------------------------------------------------------------------------------------------


def test_a_ledger_comes_back_as_it_was(tmp_path):
    path = tmp_path / "folder" / "ledger.jsonl"
    releases = [
        noise("a", clients=(0, 1, 2, 9)),
        Release("b", "ü", "subsampled_gaussian", noise_multiplier=1.1, sampling_probability=0.1, steps=3),
        Release("c", "votes", "pure", epsilon=0.1),
        Release("d", "skellam", "renyi", curve=((2.0, 0.01), (3.0, 0.02))),
    ]
    with Ledger(PrivacyBudget(epsilon=9.0), path) as ledger:
        ledger.charge(*releases)
        spent = ledger.spent()
        reader = Ledger.read(path)  # while it is open
        assert (reader.releases, reader.spent(), reader.budget) == (tuple(releases), spent, ledger.budget)
    size = path.stat().st_size
    with Ledger(PrivacyBudget(epsilon=9.0), path) as again:
        assert (again.releases, again.spent()) == (tuple(releases), spent)
    assert path.stat().st_size == size
    kept = Ledger(PrivacyBudget(epsilon=9.0))  # what a checkpoint knows and nobody else
    kept.load_state_dict(ledger.state_dict())
    assert (kept.releases, kept.spent()) == (tuple(releases), spent)


def test_a_line_that_was_cut_off_was_never_acted_upon(tmp_path):
    path, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    with Ledger(PrivacyBudget(), path) as ledger:
        ledger.charge(noise("a"))
        whole = path.stat().st_size
        ledger.charge(noise("b"))
    data = path.read_bytes()
    for length in (*range(whole, len(data), 5), len(data) - 1):
        cut.write_bytes(data[:length])
        assert [release.id for release in Ledger.read(cut).releases] == ["a"]
        with Ledger(PrivacyBudget(), cut) as ledger:
            assert [release.id for release in ledger.releases] == ["a"]
            ledger.charge(noise("c"))
        assert ids(cut) == ["a", "c"], length


@pytest.mark.parametrize("damage", [b"{", b"\0\0\0", b"[1]", b'{"release": {"id": "x"}}', b'{"other": 1}'])
def test_damage_is_never_passed_over(tmp_path, damage):
    path = tmp_path / "ledger.jsonl"
    with Ledger(PrivacyBudget(), path) as ledger:
        ledger.charge(noise("a"))
    with path.open("ab") as file:
        file.write(damage + b"\n")
    before = path.read_bytes()
    with pytest.raises(BadInput):
        Ledger(PrivacyBudget(), path)
    with pytest.raises(BadInput):
        Ledger.read(path)
    assert path.read_bytes() == before


def test_one_ledger_at_a_time(tmp_path):
    path = tmp_path / "ledger.jsonl"
    first = Ledger(PrivacyBudget(), path)
    with pytest.raises(BadInput, match="kept by another"):
        Ledger(PrivacyBudget(), path)
    first.charge(noise("a"))
    first.close()
    with pytest.raises(BadInput, match="closed"):
        first.charge(noise("b"))
    assert len(first.releases) == 1
    with Ledger(PrivacyBudget(), path) as second:
        assert len(second.releases) == 1


def test_another_budget_on_the_same_file(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Ledger(PrivacyBudget(epsilon=1.0), path) as ledger:
        ledger.charge(noise("a", 4.0))
    with pytest.raises(BadInput, match="no common number"):
        Ledger(PrivacyBudget(unit="client"), path)
    with Ledger(PrivacyBudget(epsilon=2.0), path) as ledger:  # a larger cap refunds nothing
        assert ledger.spent()[0] > 0.9
    assert Ledger.read(path).budget.epsilon == 2.0


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_refuses_the_release(tmp_path, monkeypatch, call):
    path = tmp_path / "ledger.jsonl"
    with Ledger(PrivacyBudget(), path) as ledger:
        ledger.charge(noise("a"))
        before = path.read_bytes()
        whole = os.write

        def half(file: int, data: memoryview) -> int:
            if len(data) < 40:
                raise OSError(errno.ENOSPC, "No space left on device")
            return whole(file, data[:30])

        def none(file: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, call, half if call == "write" else none)
            with pytest.raises(BadInput, match="Nothing was released"):
                ledger.charge(noise("b"))
        assert (path.read_bytes(), len(ledger.releases)) == (before, 1)
        ledger.charge(noise("c"))
    assert ids(path) == ["a", "c"]


CHARGING = """
import json, os, random, signal, sys, time
from pathlib import Path
from fedlab.privacy.accounting.ledger import Ledger
from fedlab.privacy.accounting.budget import PrivacyBudget
from fedlab.privacy.accounting.release import Release

path, acknowledged, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
chance = random.Random(0)

def charge_until_killed(first):
    log = os.open(acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    ledger, number = Ledger(PrivacyBudget(), path), first
    while True:
        ledger.charge(Release(str(number), f"round {number}", "gaussian", noise_multiplier=10.0))
        os.write(log, f"{number}\\n".encode())
        number += 1

counts = []
for _ in range(kills):
    known = len(Ledger.read(path).releases) if path.exists() and path.stat().st_size else 0
    child = os.fork()
    if not child:
        charge_until_killed(max(0, known - 3))  # it went on from a checkpoint: the last ones happen again
    time.sleep(chance.uniform(0.0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with Ledger(PrivacyBudget(), path) as ledger:  # its lock died with it
        found = [release.id for release in ledger.releases]
    said = acknowledged.read_text().splitlines() if acknowledged.exists() else []
    assert set(said) <= set(found), set(said) - set(found)
    assert found == [str(number) for number in range(len(found))], found
    counts.append(len(found))
print(json.dumps(counts))
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_forgets_nothing_and_counts_nothing_twice(tmp_path):
    path = tmp_path / "ledger.jsonl"
    command = [sys.executable, "-c", CHARGING, str(path), str(tmp_path / "acknowledged"), str(KILLS)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    counts = json.loads(run.stdout)
    assert len(set(counts)) > KILLS // 4  # it did get somewhere between the kills
    assert ids(path) == [str(number) for number in range(counts[-1])]
    epsilon = epsilon_of(10.0 / counts[-1] ** 0.5, DELTA)
    assert Ledger.read(path).spent()[0] == pytest.approx(epsilon, rel=1e-9)


# -- checkpoints -------------------------------------------------------------------------------------------------


class Strategy:
    """What a checkpoint meets: its ledger is an attribute like any other."""

    def __init__(self, ledger: Ledger):
        self.ledger = ledger


def test_resuming_keeps_what_the_checkpoint_and_the_file_know(tmp_path):
    kept, path = Checkpoints(tmp_path / "checkpoints", "config"), tmp_path / "ledger.jsonl"
    with Ledger(PrivacyBudget(epsilon=2.0), path) as ledger:
        ledger.charge(noise("a", 4.0))
        assert kept.after(1, {"strategy": Strategy(ledger)}) == []
        ledger.charge(noise("after the checkpoint", 9.0))
    with Ledger(PrivacyBudget(epsilon=2.0), path) as ledger:  # the file knows more
        assert kept.restore({"strategy": Strategy(ledger)}) == 1
        assert [release.id for release in ledger.releases] == ["a", "after the checkpoint"]
    path.unlink()
    with Ledger(PrivacyBudget(epsilon=0.5), path) as ledger:  # the checkpoint does, and no cap undoes what happened
        kept.restore({"strategy": Strategy(ledger)})
        assert ids(path) == ["a"]
        assert ledger.spent()[0] > 0.5
        with pytest.raises(BudgetSpent):
            ledger.charge(noise("b", 100.0))


def test_a_checkpoint_of_other_releases_is_refused(tmp_path):
    ledger, other = Ledger(PrivacyBudget()), Ledger(PrivacyBudget())
    ledger.charge(noise("a"))
    other.charge(noise("a", 3.0))
    with pytest.raises(BadInput, match="equal ids"):
        ledger.load_state_dict(other.state_dict())
    assert ledger.spent()[0] == pytest.approx(epsilon_of(10.0, DELTA))


def test_a_strategy_without_a_budget_has_no_ledger(tmp_path):
    with opened(None, tmp_path / "ledger.jsonl") as ledger:
        assert ledger is None
    assert not (tmp_path / "ledger.jsonl").exists()
    with opened(PrivacyBudget(epsilon=1.0), None) as ledger:
        assert ledger is not None and ledger.budget.epsilon == 1.0


# -- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        *({"epsilon": value} for value in (0.0, -1.0, float("nan"), float("inf"))),
        *({"delta": value} for value in (0.0, 1.0, -1e-5, float("nan"))),
        *({"unit": "row"}, {"relation": "add"}),
    ],
)
def test_a_budget_out_of_range(wrong):
    with pytest.raises(BadInput):
        PrivacyBudget(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": ""},
        {"mechanism": "uniform"},
        {"noise_multiplier": None},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": float("nan")},
        {"steps": 0},
        {"epsilon": 1.0},
        {"sampling_probability": 0.5},
        {"mechanism": "subsampled_gaussian", "sampling_probability": 0.0},
        {"mechanism": "subsampled_gaussian", "sampling_probability": 0.5, "relation": "replace_one"},
        {"mechanism": "cohort_gaussian", "cohort": (5, 10)},
        {"mechanism": "cohort_gaussian", "cohort": (11, 10), "relation": "replace_one"},
        {"mechanism": "pure", "noise_multiplier": None, "epsilon": -1.0},
        {"mechanism": "stated", "noise_multiplier": None, "epsilon": 1.0, "delta": 1.0},
        {"mechanism": "renyi", "noise_multiplier": None, "curve": ((1.0, 0.1),)},
        {"mechanism": "renyi", "noise_multiplier": None, "curve": ((3.0, 0.1), (2.0, 0.1))},
        {"mechanism": "renyi", "noise_multiplier": None, "curve": ((2.0, float("nan")),)},
        {"clients": ()},
        {"clients": (-1,)},
        {"unit": "row"},
    ],
)
def test_a_release_out_of_range(wrong):
    right = {"id": "a", "label": "l", "mechanism": "gaussian", "noise_multiplier": 1.0}
    Release(**right)
    with pytest.raises(BadInput):
        Release(**(right | wrong))


@given(st.sets(st.integers(0, 60), min_size=1))
def test_ranges_are_the_numbers(clients):
    assert numbers(ranges(sorted(clients))) == tuple(sorted(clients))


@given(
    st.floats(1e-3, 1e3),
    st.floats(1e-6, 1.0),
    st.integers(1, 10**6),
    st.none() | st.sets(st.integers(0, 2**63), min_size=1, max_size=5).map(tuple),
    st.text(max_size=20),
)
def test_a_release_survives_its_text(m, q, steps, clients, label):
    release = Release("id", label, "subsampled_gaussian", m, sampling_probability=q, steps=steps, clients=clients)
    assert Release.of(json.loads(json.dumps(release.values()))) == release
