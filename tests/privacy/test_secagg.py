"""The protocol by itself: the sum and nothing but the sum, whoever is lost, and what is refused."""

import copy
import hashlib
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.stats import chisquare

from fedlab.errors import BadInput
from fedlab.privacy.departure import Departure
from fedlab.privacy.graph import Terms, in_one_piece
from fedlab.privacy.participant import Participant
from fedlab.privacy.secagg import SecureSum
from fedlab.stats import GramStats
from fedlab.stats.integers import Layout, integers, statistics_of
from tests.draws import FIXED, statistics

D, C = 6, 3
SESSION = b"session of tests"
STEPS = ("keys", "shares", "upload", "reveal")


@dataclass
class Federation:
    """Clients 10, 20, ... with their statistics and memories, and the server."""

    clients: int
    dropout: float = 0.3
    keep: tuple[int, ...] = ()
    entropy: int = 0
    memories: dict[int, dict] = field(default_factory=dict)
    sent: dict[tuple[str, int], dict] = field(default_factory=dict)

    def __post_init__(self):
        self.terms = Terms(self.clients, self.dropout)
        self.ids = [10 * (k + 1) for k in range(self.clients)]
        self.held = {who: statistics(who % 7 * 3, D, C, who, FIXED) for who in self.ids}
        self.server = SecureSum(self.terms, SESSION, 5, tuple(self.keep))
        self.rng = np.random.default_rng(self.entropy)

    def vector(self, who):
        return integers(self.held[who], self.clients)

    def answer(self, step, who, asked=None):
        """Let one client answer, and remember."""
        one, memory = Participant(who, self.terms), self.memories.get(who, {})
        if step == "keys":
            answer, memory = one.keys(SESSION, memory, lambda: self.rng.bytes(32))
        elif step == "upload":
            answer, memory = one.upload(asked, self.vector(who), SESSION, memory)
        else:
            method = {"shares": one.shares, "reveal": one.reveal, "leave": one.part}[step]
            answer, memory = method(asked, SESSION, memory)
        self.memories[who] = memory
        self.sent[step, who] = answer
        return answer

    def asked(self, step):
        """What each is asked who is still there."""
        if step == "keys":
            return dict.fromkeys(self.ids)
        if step == "reveal":
            return dict.fromkeys(self.server.uploaded, self.server.ask_reveal())
        return self.server.ask_shares() if step == "shares" else self.server.ask_upload()

    def take(self, step, who, answer):
        return getattr(self.server, f"take_{step}")(who, answer)

    def run(self, until="reveal", lost=(0, 0, 0, 0)):
        """Run to the end of a step; at each some are lost, the last ones in a shuffled order."""
        for step, gone in zip(STEPS[: STEPS.index(until) + 1], lost, strict=False):
            questions = self.asked(step)
            there = np.random.default_rng([7, STEPS.index(step)]).permutation(list(questions))
            for who in there[: len(there) - gone].tolist():
                assert self.take(step, who, self.answer(step, who, questions[who]))
        return self

    def total(self):
        layout = Layout.of(self.held[10])
        return statistics_of(self.server.result(), layout, len(self.server.uploaded))

    def plain(self, some=None):
        return GramStats.total(self.held[who] for who in sorted(some or self.server.uploaded))


# -- the sum -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clients", [3, 10, 40])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("step", [0, 1, 2, 3, "all"])
def test_the_sum_is_the_plain_one_to_the_bit_whoever_is_lost_at_whatever_step(clients, share, step):
    gone = int(share * clients)
    lost = [gone // 4 + (i < gone % 4) if step == "all" else gone * (i == step) for i in range(4)]
    federation = Federation(clients).run(lost=lost)
    assert len(federation.server.uploaded) == clients - sum(lost[:3])
    assert federation.total().sha256 == federation.plain().sha256


def test_few_clients_share_with_all_and_many_with_few():
    few, many = Terms(10), Terms(100)
    assert set(map(len, few.graph(range(10), 0).values())) == {9}
    graph = many.graph(range(100), 0)
    assert set(map(len, graph.values())) == {many.degree} and many.degree < 40
    assert all(one in graph[other] for one, near in graph.items() for other in near)
    assert graph != many.graph(range(100), 1) and in_one_piece(graph, range(100))
    assert Terms(100, colluding=0.05).degree < many.degree < Terms(10_000).degree < 2 * Terms(1000).degree


@pytest.mark.parametrize("clients", [40, 100, 300])
def test_the_threshold_holds_against_the_stated_shares_of_the_lost_and_the_colluding(clients):
    # 500 graphs drawn, not 2^20: what is stated to happen once in a million must not happen here.
    terms, rng = Terms(clients), np.random.default_rng(0)
    for seed in range(500 // (clients // 20)):
        graph = terms.graph(range(clients), seed)
        order = rng.permutation(clients).tolist()
        lost, bad = set(order[: int(0.3 * clients)]), set(order[-int(0.1 * clients) :])
        for near in graph.values():
            assert len(bad.intersection(near)) < terms.threshold <= len(near) - len(lost.intersection(near))


# -- what the server sees ----------------------------------------------------------------------------------


def pvalue(vector):
    """Of its bytes under uniformity."""
    return chisquare(np.bincount(vector.view(np.uint8), minlength=256)).pvalue


def test_a_single_upload_is_uniform_and_the_statistics_in_it_are_not():
    federation = Federation(4)
    federation.held = {who: statistics(40, 60, C, who, FIXED) for who in federation.ids}
    federation.run()
    for who in federation.ids:
        assert pvalue(federation.sent["upload", who]["masked"]) > 1e-4
        assert pvalue(federation.vector(who)) < 1e-100
    assert federation.total().sha256 == federation.plain().sha256


def test_an_upload_says_nothing_about_what_is_in_it():
    # With other secrets the same statistics look otherwise, and other statistics look alike: as far as bytes tell.
    one, other = Federation(4).run(), Federation(4, entropy=1).run()
    differ = [one.sent["upload", who]["masked"] != other.sent["upload", who]["masked"] for who in one.ids]
    assert all(different.mean() > 0.9 for different in differ)
    assert one.total().sha256 == other.total().sha256


def test_nothing_leaves_a_client_but_keys_sealed_shares_digests_and_the_masked_vector():
    federation = Federation(10).run(lost=(0, 1, 1, 0))
    names = {step: {name for (at, _), said in federation.sent.items() if at == step for name in said} for step in STEPS}
    assert names == {
        "keys": {"publics"},
        "shares": {"sealed", "digests", "commitment"},
        "upload": {"masked", "digest"},
        "reveal": {"shares"},
    }
    sizes = {
        (step, name, array.shape, array.dtype)
        for (step, who), said in federation.sent.items()
        for name, array in said.items()
    }
    assert len(sizes) == 7  # whoever holds how much: the same shapes and types


def test_never_both_shares_of_one_client():
    federation = Federation(10).run(lost=(0, 1, 2, 0))
    server = federation.server
    root = {who: federation.memories[who] for who in server.sealed}
    for who in server.revealed:
        senders = [j for j in server.graph[who] if j in server.sealed]
        both = np.frombuffer(root[who]["shares"], np.uint8).reshape(len(senders), 2, 33)
        given = federation.sent["reveal", who]["shares"]
        for j, row, (seed, key) in zip(senders, given, both, strict=True):
            assert (row == (seed if j in server.uploaded else key)).all()
        survivors = np.array(sorted(set(server.uploaded) - {senders[-1]}), np.uint64)
        if senders[-1] in server.uploaded:
            with pytest.raises(BadInput, match="another set of survivors|clients are in the sum|neighbours are"):
                federation.answer("reveal", who, {"survivors": survivors})


# -- refusals ----------------------------------------------------------------------------------------------


def test_below_the_minimum_there_is_no_sum():
    for step, said in zip(STEPS[:3], ("sent keys", "shared their secrets", "are in the sum"), strict=True):
        lost = [4 * (step == other) for other in STEPS]
        federation = Federation(10).run(step, lost)
        following = STEPS[STEPS.index(step) + 1]
        with pytest.raises(BadInput, match=f"6 of 10 clients {said}, 7 must: there is no sum; .* raise dropout"):
            federation.asked(following)
    federation = Federation(10).run(lost=(0, 0, 0, 4))
    with pytest.raises(BadInput, match=r"of client \d+'s 9 neighbours revealed their share, 6 must: there is no sum"):
        federation.server.result()


def test_a_client_refuses_survivors_that_are_too_few_unknown_or_not_itself():
    federation = Federation(10).run("upload", lost=(0, 1, 0, 0))
    server = federation.server
    who, everyone = server.uploaded[0], sorted(server.uploaded)
    (silent,) = set(federation.ids) - set(server.sealed)
    for survivors, why in (
        (everyone[:6] if who in everyone[:6] else [*everyone[:5], who], "6 of 10 clients are in the sum, 7 must"),
        (sorted(set(everyone) - {who}), "lack this client"),
        (sorted([*everyone, silent]), "that never shared"),
        (everyone[:1] * 7, "named twice"),
        ([*everyone, 10**9, 10**9 + 1], "11 of 10 clients"),
    ):
        with pytest.raises(BadInput, match=why):
            federation.answer("reveal", who, {"survivors": np.array(sorted(survivors), np.uint64)})
    assert federation.answer("reveal", who, server.ask_reveal())["shares"].shape == (8, 33)


def test_a_client_answers_a_step_again_with_the_same_and_never_otherwise():
    federation = Federation(6).run()
    who = 10
    before, asked = copy.deepcopy(federation.sent), {}
    for step in STEPS:
        asked[step] = federation.asked(step)[who]
        again = federation.answer(step, who, asked[step])
        assert all((again[name] == array).all() for name, array in before[step, who].items())
    fewer = {name: array[:-1] for name, array in asked["shares"].items()}
    with pytest.raises(BadInput, match="other neighbours were named before"):
        federation.answer("shares", who, fewer)
    fewer = {name: array[:-1] for name, array in asked["upload"].items()}
    with pytest.raises(BadInput, match="other shares were named before"):
        federation.answer("upload", who, fewer)
    with pytest.raises(BadInput, match="took no part in the step before"):
        Participant(who, federation.terms).reveal(asked["reveal"], b"another session", federation.memories[who])


def test_a_client_that_answers_twice_counts_once():
    federation = Federation(6).run()
    digest = federation.total().sha256
    for (step, who), answer in federation.sent.items():
        assert federation.take(step, who, answer) is False
    assert federation.total().sha256 == digest == federation.plain().sha256


def flipped(array, bit=0):
    changed = array.copy()
    changed.reshape(-1).view(np.uint8)[bit] ^= 1
    return changed


@pytest.mark.parametrize(
    ("step", "name", "why"),
    [
        ("upload", "masked", "do not have the digest it sent: they were tampered with"),
        ("reveal", "shares", "its share of client 10 is not the one it was given: it was tampered with"),
        ("shares", "commitment", None),
    ],
)
def test_an_answer_that_was_tampered_with_is_refused_and_nothing_changes(step, name, why):
    federation = Federation(6).run(STEPS[STEPS.index(step) - 1])
    questions, culprit = federation.asked(step), 30
    answers = {who: federation.answer(step, who, asked) for who, asked in questions.items()}
    bad = {**answers[culprit], name: flipped(answers[culprit][name])}
    if why is not None:
        before = copy.deepcopy(federation.server)
        with pytest.raises(BadInput, match=why):
            federation.take(step, culprit, bad)
        assert str(vars(federation.server)) == str(vars(before))
        assert federation.take(step, culprit, answers[culprit])  # the true one is as good as ever
        return
    for who in questions:
        federation.take(step, who, bad if who == culprit else answers[who])
    for later in STEPS[STEPS.index(step) + 1 :]:
        for who, asked in federation.asked(later).items():
            federation.take(later, who, federation.answer(later, who, asked))
    with pytest.raises(BadInput, match=f"the self mask of client {culprit} is not the one it committed to"):
        federation.server.result()


@pytest.mark.parametrize("key", [0, 1])
def test_a_key_that_was_tampered_with_is_found_before_anything_is_uploaded(key):
    federation = Federation(6).run("keys")
    questions = federation.asked("shares")
    place = questions[10]["neighbours"].tolist().index(30)
    questions[10]["publics"] = flipped(questions[10]["publics"], 64 * place + 32 * key)
    answers = {who: federation.answer("shares", who, asked) for who, asked in questions.items()}
    federation.take("shares", 10, answers[10])
    if key:
        with pytest.raises(BadInput, match="it and client 10 have different masks: a key was tampered with"):
            federation.take("shares", 30, answers[30])
        return
    for who in federation.ids[1:]:
        federation.take("shares", who, answers[who])
    with pytest.raises(BadInput, match="what client 10 shared was tampered with, or its keys were"):
        federation.answer("upload", 30, federation.asked("upload")[30])


@pytest.mark.parametrize("bit", [0, 20, 81])
def test_a_sealed_share_that_was_tampered_with_names_its_sender(bit):
    federation = Federation(6).run("shares")
    asked = federation.asked("upload")[20]
    asked["sealed"][2] = flipped(asked["sealed"][2], bit)
    with pytest.raises(BadInput, match=f"what client {asked['senders'][2]} shared was tampered with"):
        federation.answer("upload", 20, asked)
    assert "senders" not in federation.memories[20]


@pytest.mark.parametrize("step", STEPS)
def test_an_answer_of_another_form_or_of_somebody_else_is_refused(step):
    federation = Federation(6).run(step)
    fresh = Federation(6).run(STEPS[max(0, STEPS.index(step) - 1)] if step != "keys" else "keys", (1, 0, 0, 0))
    answer = federation.sent[step, 10]
    for name, array in answer.items():
        for wrong, why in (
            ({**answer, name: array.astype(np.float32)}, "is float32"),
            ({key: value for key, value in answer.items() if key != name}, f"{name} is missing"),
        ):
            silent = set(fresh.ids) - set(fresh.server.publics)
            if step == "keys":
                with pytest.raises(BadInput, match=why):
                    fresh.take(step, silent.pop(), wrong)
                continue
            fresh.asked(step)
            with pytest.raises(BadInput, match=why):
                fresh.take(step, next(who for who in fresh.ids if who in fresh.server.publics), wrong)
            with pytest.raises(BadInput, match="was not asked: it took no part in the step before"):
                fresh.take(step, silent.pop(), answer)


def test_uploads_of_two_lengths_are_not_added():
    federation = Federation(4).run("shares")
    questions = federation.asked("upload")
    federation.take("upload", 10, federation.answer("upload", 10, questions[10]))
    federation.held[20] = statistics(3, D + 1, C, 0, FIXED)
    with pytest.raises(BadInput, match=r"its masked is uint64\[\d+\]: expected uint64, shape"):
        federation.take("upload", 20, federation.answer("upload", 20, questions[20]))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"clients": 2}, "a secure sum of 2 clients hides nobody: at least 3"),
        ({"clients": 10, "dropout": 1.0}, r"dropout=1.0 lies outside \[0, 1\)"),
        ({"clients": 10, "colluding": -0.1}, r"colluding=-0.1 lies outside"),
        ({"clients": 10, "dropout": 0.6, "colluding": 0.5}, "lower one of them, or ask more clients"),
        ({"clients": 100, "dropout": 0.6, "colluding": 0.5}, "lower one of them"),
    ],
)
def test_terms_that_nobody_can_keep_are_refused(words, why):
    with pytest.raises(BadInput, match=why):
        Terms(**words)


# -- leaving -----------------------------------------------------------------------------------------------


def leave(federation, *some, alone=False, silent=()):
    departure = Departure.of(federation.server, some, alone)
    for who in departure.asked(federation.server):
        if who not in silent:
            departure.take(federation.server, who, federation.answer("leave", who, departure.question()))
    vector = departure.result(federation.server)
    return statistics_of(vector, Layout.of(federation.held[10]), len(some))


@pytest.mark.parametrize("lost", [(0, 0, 0, 0), (1, 1, 1, 0)])
@pytest.mark.parametrize("gone_already", [False, True])
def test_who_leaves_takes_exactly_its_part(lost, gone_already):
    everyone = tuple(10 * (k + 1) for k in range(20))
    federation = Federation(20, keep=everyone, dropout=0.4).run(lost=lost)
    total, some = federation.total(), sorted(federation.server.uploaded)[2:5]
    part = leave(federation, *some, silent=some if gone_already else ())
    assert part.sha256 == federation.plain(some).sha256
    rest = set(federation.server.uploaded) - set(some)
    assert (total - part).sha256 == federation.plain(rest).sha256
    # And again: somebody leaves a sum that others have left.
    one = min(rest)
    assert leave(federation, one, alone=True).sha256 == federation.held[one].sha256
    with pytest.raises(BadInput, match=f"client {one} has left the sum before"):
        leave(federation, one, alone=True)


def test_a_sparse_graph_lets_neighbours_leave_together_and_strangers_only_if_it_is_said():
    federation = Federation(40, keep=tuple(10 * (k + 1) for k in range(40))).run()
    assert federation.total().sha256 == federation.plain().sha256
    graph = federation.server.graph
    near = [10, graph[10][0]]
    far = [10, next(who for who in federation.ids if who != 10 and who not in graph[10])]
    with pytest.raises(BadInput, match="each group that shares masks would show its own sum"):
        leave(federation, *far)
    assert leave(federation, *near).sha256 == federation.plain(near).sha256


def test_departures_that_show_too_much_or_were_never_in_the_sum_are_refused():
    federation = Federation(10, keep=(10, 20, 30, 40, 50)).run(lost=(0, 0, 1, 0))
    server = federation.server
    (lost,) = set(server.sealed) - set(server.uploaded)
    inside = [who for who in (10, 20, 30, 40, 50) if who in server.uploaded]
    other = next(who for who in server.uploaded if who > 50)
    before = federation.total().sha256
    for some, why in (
        ([lost], "is not in the sum: there is nothing of it to take out"),
        ([999], "client 999 is not in the sum"),
        ([other], "upload was not kept"),
        (inside[:1], "one that leaves alone its statistics: let others leave with it, or say alone=true"),
        (inside[:3], "6 of 10 clients would stay, 7 must"),
        (inside[:1] * 2, "each once"),
        ([], "name at least one"),
    ):
        with pytest.raises(BadInput, match=why):
            leave(federation, *some)
    assert server.left == () and federation.total().sha256 == before


def test_a_seed_that_was_tampered_with_or_is_missing_is_refused():
    federation = Federation(8, keep=(10, 20), dropout=0.4).run()
    server = federation.server
    server.result()
    departure = Departure.of(server, [10, 20])
    answer = federation.answer("leave", 30, departure.question())
    with pytest.raises(BadInput, match="its seed with client 10 is not that of the mask: it was tampered with"):
        departure.take(server, 30, {"seeds": flipped(answer["seeds"])})
    assert departure.take(server, 30, answer) and not departure.take(server, 30, answer)
    with pytest.raises(BadInput, match="neither client 10, which leaves, nor client 40 sent the seed"):
        departure.result(server)
    assert server.left == ()


def test_a_client_refuses_a_departure_of_the_unknown_and_of_too_many():
    federation = Federation(8).run()
    for leaving, why in (
        ([10, 999], "not in the sum"),
        ([], "not in the sum"),
        ([20, 30, 40, 50], "3 neighbours would stay with this client, 5 must"),
    ):
        with pytest.raises(BadInput, match=why):
            federation.answer("leave", 10, {"leaving": np.array(leaving, np.uint64)})
    asked = {"leaving": np.array([20], np.uint64)}
    assert federation.answer("leave", 10, asked)["seeds"].shape == (1, 32)
    assert federation.answer("leave", 10, asked)["seeds"].shape == (1, 32)  # asked again
    with pytest.raises(BadInput, match="has left it before"):
        federation.answer("leave", 10, {"leaving": np.array([20, 30], np.uint64)})


def test_the_state_comes_back_from_a_checkpoint_between_any_two_steps():
    from fedlab.engine.state import pack, unpack

    federation, digests = Federation(10, keep=(10, 20)), set()
    for step in STEPS:
        for who, asked in federation.asked(step).items():
            federation.take(step, who, federation.answer(step, who, asked))
        tree, arrays, left_out = pack({"sum": federation.server})
        assert left_out == []
        federation.server = unpack(tree, arrays, {"sum": None})["sum"]
        digests.add(hashlib.sha256(repr(federation.server.uploaded).encode()).hexdigest())
    assert federation.total().sha256 == federation.plain().sha256
    assert leave(federation, 10, 20).sha256 == federation.plain([10, 20]).sha256
