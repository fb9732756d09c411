"""FDKT's client: what it answers to each step, what stays at home, and what it refuses."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from clients.fdkt import FDKT, SMALL_MODEL
from fedlab.data.sources.phrases import Phrases
from fedlab.errors import BadInput
from fedlab.features.hashed import HashedWords
from fedlab.llm.backends.tiny import Tiny
from fedlab.llm.synthesis.budget import Budget
from fedlab.llm.synthesis.text_packing import unpack_texts
from fedlab.llm.tuning.small_model import Head

DATA = Phrases(each=40).load()
ROWS = np.flatnonzero(DATA.train.groups["domain"] == "food")
SPLIT = DATA.train.take(ROWS)
X = torch.from_numpy(HashedWords(64).extract(SPLIT.inputs))
LABELS = torch.from_numpy(SPLIT.labels)
CANDIDATES = HashedWords(64).extract(["the soup was poor", "the train was late", "a superb song"])


def client(**settings: object) -> FDKT:
    settings = {"budget": Budget(epsilon=8.0, votes=1), "labelled": 10, **settings}
    return FDKT(2, ["negative", "positive"], **settings)  # pyright: ignore[reportArgumentType]


def ask(one: FDKT, step: str, arrays=None, memory=None, seed=3, **config):
    config = {"step": step, "run-seed": 0, "noise": one.budget.terms, **config}
    return one.respond(arrays or {}, config, lambda: (X, LABELS, SPLIT), memory or {}, 0, 3, seed)


def test_it_names_its_domain_and_nothing_else():
    answer, memory = ask(client(), "hello")
    assert unpack_texts(answer) == ["food"] and set(answer) == {"text", "ends"} and not memory


def test_it_counts_its_labels_under_noise_where_it_is_asked_to():
    one = client(budget=Budget(epsilon=8.0, votes=1, labels=True))
    said = np.array([ask(one, "hello", seed=s)[0]["counts"] for s in range(300)])
    private = one.private(X, LABELS, SPLIT, one.of(0, 0))
    counts = np.bincount(private.labels[:10], minlength=2)
    assert np.abs(said.mean(0) - counts).max() < 5 * one.budget.votes_multiplier / 300**0.5
    assert (said - counts).std() == pytest.approx(one.budget.votes_multiplier, rel=0.15)  # of 600 numbers
    assert one.budget.votes_multiplier > client().budget.votes_multiplier, "two histograms share one budget"


def test_votes_are_those_of_its_texts_and_noise():
    silent = client(budget=Budget(epsilon=None, votes=1))
    counts, _ = ask(silent, "vote", {"embedded": CANDIDATES})
    assert set(counts) == {"votes"} and counts["votes"].sum() == len(SPLIT)
    one = client()
    noisy = np.array([ask(one, "vote", {"embedded": CANDIDATES}, seed=s)[0]["votes"] for s in range(400)])
    off = noisy - counts["votes"]
    # 1200 numbers: their deviation is known to 2 %, five of which are allowed
    assert off.std() == pytest.approx(one.budget.votes_multiplier, rel=0.1) and abs(off.mean()) < 0.1
    again = ask(one, "vote", {"embedded": CANDIDATES}, seed=0)[0]["votes"]
    assert (again == noisy[0]).all()
    others = ask(one, "vote", {"embedded": CANDIDATES[::-1]}, seed=0)[0]["votes"]
    moved = np.sort(others - counts["votes"][::-1]) - np.sort(off[0])
    assert np.abs(moved).max() > 1e-3, "other candidates, other noise"
    fresh = client(entropy="os")
    assert (ask(fresh, "vote", {"embedded": CANDIDATES})[0]["votes"] != noisy[3]).all()


def test_the_small_model_stays_at_home():
    sent = {"embedded": CANDIDATES, "labels": np.array([0, 0, 1])}
    answer, memory = ask(client(), "teach", sent, memory={"other": b"x"})
    assert answer == {} and set(memory) == {"other", SMALL_MODEL}
    head = load(memory[SMALL_MODEL])["weight"]
    assert head.shape == (2, 65)
    one = client()
    private = one.private(X, LABELS, SPLIT, one.of(0, 0))
    taught, local = (one.taught(private, arrays, 3).weights["weight"] for arrays in (sent, {}))
    assert (head == taught).all() and not (head == local).all()


def test_a_client_has_some_of_its_texts_and_labels_of_fewer():
    one = client(texts=12, labelled=5)
    private = one.private(X, LABELS, SPLIT, 7)
    assert len(private) == 12 == len(private.texts) and private.labelled == 5
    again, other = one.private(X, LABELS, SPLIT, 7), one.private(X, LABELS, SPLIT, 8)
    assert private.texts == again.texts != other.texts
    assert set(private.texts) <= set(SPLIT.inputs)
    rows = [SPLIT.inputs.index(text) for text in private.texts]
    assert (private.x == X[rows].numpy()).all() and (private.labels == SPLIT.labels[rows]).all()
    # labels beyond the first five are not looked at
    changed = LABELS.clone()
    changed[rows[5:]] = 1 - changed[rows[5:]]
    blind = one.private(X, changed, SPLIT, 7)
    seeing, not_seeing = (one.taught(what, {}, 0).weights["weight"] for what in (private, blind))
    assert (seeing == not_seeing).all()


def test_a_client_without_texts_votes_noise_and_learns_from_others():
    def nothing():
        return X[:0], LABELS[:0], SPLIT.take(np.zeros(0, np.int64))

    one = client(small_model=Head(penalties=(1e-3,)))
    config = {"run-seed": 0, "noise": one.budget.terms}
    votes, _ = one.respond({"embedded": CANDIDATES}, {"step": "vote", **config}, nothing, {}, 0, 3, 1)
    assert votes["votes"].shape == (3,) and votes["votes"].any()
    sent = {"embedded": CANDIDATES, "labels": np.array([0, 0, 1])}
    _, memory = one.respond(sent, {"step": "teach", **config}, nothing, {}, 0, 3, 1)
    assert load(memory[SMALL_MODEL])["weight"].any()


def test_the_server_can_judge_what_it_sent():
    one = client(small_model=Head(penalties=(1e-3,)))
    assert not one.scores(one.initial(64, 0), X).any()
    sent = {"embedded": CANDIDATES, "labels": np.array([0, 0, 1])}
    assert one.scores(sent, X).shape == (len(X), 2) and one.features(X) is X


def test_bad_input():
    with pytest.raises(BadInput, match="unknown step of FDKT 'vot'"):
        ask(client(), "vot")
    with pytest.raises(BadInput, match=r"the server reckons with noise \[0.1, 1.0\], this client adds"):
        ask(client(), "vote", noise=[0.1, 1.0])
    with pytest.raises(BadInput, match=r"groups \['domain'\], and no 'vendor'"):
        ask(client(group="vendor"), "hello")
    for wrong in ({"labelled": 0}, {"texts": 0}, {"samples_per_class": 0}, {"min_words": 0}, {"entropy": "dice"}):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            client(**wrong)
    with pytest.raises(BadInput, match="name 1 of 2 classes"):
        FDKT(2, ["good"], Budget())
    with pytest.raises(BadInput, match="generator and base belong together"):
        client(base=Tiny())
    with pytest.raises(BadInput, match="0 candidates"):
        ask(client(), "vote", {"embedded": CANDIDATES[:0]})
