"""The protocol by itself: the sum and nothing but the sum, whoever is lost, and what is refused."""

import copy

import numpy as np
import pytest
from scipy.stats import chisquare

from fedlab.errors import BadInput
from fedlab.privacy.secagg.client import Participant
from fedlab.privacy.secagg.graph import Terms, in_one_piece
from tests.draws import FIXED, statistics
from tests.privacy.secagg.protocol import STEPS, C, D, Federation, flipped

# -- the sum -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
@pytest.mark.parametrize(
    ("clients", "step"), [(3, "all"), (10, 0), (10, 1), (10, 2), (10, 3), (10, "all"), (40, "all")]
)
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
    # What is stated to happen once in a million aggregations must not happen in some hundred.
    terms, rng = Terms(clients), np.random.default_rng([0, 1])
    for seed in range(6000 // clients):
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
            with pytest.raises(BadInput, match=r"another set of survivors were named before|7 must"):
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
    federation.held[who] = federation.held[20]
    with pytest.raises(BadInput, match="other statistics were named before"):
        federation.answer("upload", who, asked["upload"])
    with pytest.raises(BadInput, match="took no part in the step before"):
        Participant(who, federation.terms).reveal(asked["reveal"], b"another session", federation.memories[who])


def test_a_client_that_answers_twice_counts_once():
    federation = Federation(6).run()
    digest = federation.total().sha256
    for (step, who), answer in federation.sent.items():
        assert federation.take(step, who, answer) is False
    assert federation.total().sha256 == digest == federation.plain().sha256


@pytest.mark.parametrize(
    ("step", "name", "why"),
    [
        ("upload", "masked", "do not have the digest it sent: they were tampered with"),
        ("reveal", "shares", "its share of client 10 is not what it was given: it was tampered with"),
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
    with pytest.raises(BadInput, match=f"client {culprit}'s self mask is not what it committed to"):
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
    with pytest.raises(BadInput, match="what client 10 shared was tampered with, or its keys"):
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
    federation = Federation(6, dropout=0.4)
    for earlier in STEPS[: STEPS.index(step)]:  # client 60 never says a word
        for who, asked in federation.asked(earlier).items():
            if who != 60:
                federation.take(earlier, who, federation.answer(earlier, who, asked))
    answer = federation.answer(step, 10, federation.asked(step)[10])
    for name, array in answer.items():
        with pytest.raises(BadInput, match=f"its {name} is float32"):
            federation.take(step, 10, {**answer, name: array.astype(np.float32)})
        with pytest.raises(BadInput, match=f"{name} is missing"):
            federation.take(step, 10, {key: value for key, value in answer.items() if key != name})
    if step != "keys":
        with pytest.raises(BadInput, match="client 60 was not asked: it took no part in the step before"):
            federation.take(step, 60, answer)
    assert federation.take(step, 10, answer)


def test_uploads_of_two_lengths_are_not_added():
    federation = Federation(4).run("shares")
    questions = federation.asked("upload")
    federation.take("upload", 10, federation.answer("upload", 10, questions[10]))
    federation.held[20] = statistics(3, D + 1, C, 0, FIXED)
    with pytest.raises(BadInput, match=r"its masked is uint64\[\d+\]: give uint64, shape"):
        federation.take("upload", 20, federation.answer("upload", 20, questions[20]))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"clients": 2}, "a secure sum of 2 clients hides nobody: 3 are needed"),
        ({"clients": 10, "dropout": 1.0}, r"dropout=1.0 must be a finite number in \[0, 1\)"),
        ({"clients": 10, "colluding": -0.1}, r"colluding=-0.1 must be a finite number"),
        ({"clients": 10, "dropout": 0.6, "colluding": 0.5}, "lower one of them, or ask more clients"),
        ({"clients": 100, "dropout": 0.6, "colluding": 0.5}, "lower one of them"),
    ],
)
def test_terms_that_nobody_can_keep_are_refused(words, why):
    with pytest.raises(BadInput, match=why):
        Terms(**words)
