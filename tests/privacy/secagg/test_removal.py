"""Leaving a secure sum: exactly the part that was added, and nothing else shows."""

import numpy as np
import pytest

from fedlab.engine.persistence.state import pack, unpack
from fedlab.errors import BadInput
from fedlab.privacy.secagg.removal import Removal
from fedlab.stats.serialization.integers import Layout, statistics_of
from tests.privacy.secagg.protocol import STEPS, Federation, flipped


def leave(federation, *some, alone=False, silent=()):
    departure = Removal.of(federation.server, some, alone)
    for who in departure.asked(federation.server):
        if who not in silent:
            departure.take(
                federation.server, who, federation.answer("leave", who, departure.question(federation.server))
            )
    vector = departure.result(federation.server)
    return statistics_of(vector, Layout.of(federation.held[10]), len(some))


def question(federation, leaving):
    return {"leaving": np.array(leaving, np.uint64), **federation.server.ask_reveal()}


@pytest.mark.parametrize("lost", [(0, 0, 0, 0), (1, 1, 1, 1)])
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
    departure = Removal.of(server, [10, 20])
    answer = federation.answer("leave", 30, departure.question(federation.server))
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
            federation.answer("leave", 10, question(federation, leaving))
    asked = question(federation, [20])
    assert federation.answer("leave", 10, asked)["seeds"].shape == (1, 32)
    assert federation.answer("leave", 10, asked)["seeds"].shape == (1, 32)  # asked again
    with pytest.raises(BadInput, match="has left it before"):
        federation.answer("leave", 10, question(federation, [20, 30]))


def test_the_state_comes_back_from_a_checkpoint_between_any_two_steps():
    federation = Federation(10, keep=(10, 20))
    for step in STEPS:
        for who, asked in federation.asked(step).items():
            federation.take(step, who, federation.answer(step, who, asked))
        tree, arrays, left_out = pack({"sum": federation.server})
        assert left_out == []
        federation.server = unpack(tree, arrays, {"sum": None})["sum"]
    assert federation.total().sha256 == federation.plain().sha256
    assert leave(federation, 10, 20).sha256 == federation.plain([10, 20]).sha256
