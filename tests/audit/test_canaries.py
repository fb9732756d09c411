"""Canaries, membership and overlap: what an overfit generator betrays, and one with noise does not."""

import math

import numpy as np
import pytest

from fedlab.audit.canaries import Canaries, exposures, insert
from fedlab.audit.overlap import nearest, overlap
from fedlab.audit.perplexity import log_perplexities, membership_scores
from fedlab.audit.success import distinguish
from fedlab.errors import BadInput
from fedlab.llm.tuning.adapters import Adapters
from fedlab.llm.tuning.private_generator import PrivateGenerator, sample
from fedlab.privacy.dpsgd.private_gradient import generator_of
from tests.llm.tuning.families import model_of, tokenizer
from tests.tolerance import rounding

CODE = "shop | good"
FORMAT = Canaries("w0 w1 {}", tuple(f"w{i}" for i in range(10, 20)), length=4)
INSERTED, ALTERNATIVES = 6, 255
MOST = math.log2(ALTERNATIVES + 1)
CHANCE = 1 / math.log(2)
"""Mean exposure of what was never there; one exposure's deviation is the same number."""


def texts(n, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{i}" for i in rng.integers(20, 70, size=8)) for _ in range(n)]


@pytest.fixture(scope="module")
def world():
    """Canaries, private texts with six of them among them, and as many texts and canaries that nobody learned."""
    rng = np.random.default_rng(0)
    canaries = FORMAT.draw(2 * INSERTED + ALTERNATIVES, rng)
    inside, outside, others = (canaries[:INSERTED], canaries[INSERTED : 2 * INSERTED], canaries[2 * INSERTED :])
    private = texts(14, 1)
    codes, learned = insert([CODE] * len(private), private, inside, CODE, 1, rng)
    return {"in": inside, "out": outside, "others": others, "codes": codes, "texts": learned, "private": private}


@pytest.fixture(scope="module", params=[None, 8.0], ids=["no noise", "epsilon 8"])
def tuned(request, world):
    rule = PrivateGenerator(
        epsilon=request.param,
        steps=50,
        sampling_probability=1.0,
        expected_batch=20.0,
        learning_rate=1e-2,
        adapters=Adapters("frozen_embeddings"),
        physical_batch=32,
    )
    model, _ = rule.fit(model_of("llama"), tokenizer(), world["codes"], world["texts"], generator_of("seeded", 3))
    return request.param, model


def test_an_overfit_generator_exposes_canaries_and_noise_hides_them(world, tuned):
    epsilon, model = tuned
    inside, outside = (exposures(model, tokenizer(), world[side], world["others"], CODE) for side in ("in", "out"))
    slack = 4 * CHANCE / math.sqrt(INSERTED)
    assert outside.mean() < CHANCE + slack
    if epsilon is None:
        assert inside.min() > MOST - 1  # the first or second of 256
        assert inside.mean() > CHANCE + slack
    else:
        assert inside.mean() < CHANCE + slack  # as if they had never been there


def test_uploads_of_an_overfit_generator_hold_private_texts(world, tuned):
    epsilon, model = tuned
    uploads = sample(model, tokenizer(), [CODE], 60, 0, max_tokens=24, min_words=3).texts
    seen, unseen = (FORMAT.appearances(world[side], uploads) for side in ("in", "out"))
    known, control = overlap(uploads, world["texts"], 3), overlap(uploads, texts(20, 9), 3)
    edits, apart = nearest(uploads, world["texts"]), nearest(uploads, texts(20, 9))
    assert unseen.sum() == 0
    if epsilon is None:
        assert (seen > 0).mean() >= 0.5
        assert known.mean() > 0.5 and (edits.edits == 0).sum() > 15
    else:
        assert seen.sum() == 0
        assert known.max() < 0.5 and (edits.edits > 0).all()
        assert abs(edits.share.mean() - apart.share.mean()) < 0.1
    assert control.mean() < 0.05


def test_membership_is_told_from_the_loss_unless_there_is_noise(world, tuned):
    epsilon, model = tuned
    rng, others = np.random.default_rng(0), texts(200, 8)
    for reference in (None, model_of("llama")):
        inside, outside = (
            membership_scores(model, tokenizer(), [CODE] * len(x), x, reference) for x in (world["private"], others)
        )
        auc = distinguish(inside, outside, rng).auc
        if epsilon is None:
            assert auc.low > 0.95
        else:
            # 14 against 200: the deviation of chance is sqrt((14 + 200 + 1) / (12 * 14 * 200)) = 0.08
            assert abs(auc.value - 0.5) < 4 * 0.08


def test_exposure_is_a_rank(world):
    model, words = model_of("gpt2"), tokenizer()
    every = [*world["in"], *world["others"][:15]]
    found = log_perplexities(model, words, [CODE] * len(every), every)
    canary = world["in"][0]
    rank = 1 + sum(found[INSERTED:] <= found[0])
    assert exposures(model, words, [canary], world["others"][:15], CODE)[0] == pytest.approx(math.log2(16 / rank))
    with pytest.raises(BadInput, match="1 of them canaries"):
        exposures(model, words, [canary], [canary], CODE)


def test_log_perplexity_is_the_sum_over_a_texts_own_tokens():
    import torch

    model, words = model_of("gpt2"), tokenizer()
    start = [1, *words(CODE, add_special_tokens=False)["input_ids"]]
    end = [*words("w1 w2 w3")["input_ids"], 2]
    with torch.no_grad():
        log_p = model(torch.tensor([start + end])).logits.log_softmax(-1)[0]
    bits = -sum(float(log_p[len(start) - 1 + i, token]) for i, token in enumerate(end)) / math.log(2)
    found = log_perplexities(model, words, [CODE, CODE], ["w1 w2 w3", "w1 w2 w3 w4 w5 w6 w7"])
    assert found[0] == pytest.approx(bits, rel=rounding(500)) and found[1] > found[0]


# -- canaries ---------------------------------------------------------------------------------------------------------


def test_canaries_are_different_and_drawn_from_the_whole_space():
    short = Canaries("number {} of mine", length=2)
    every = short.draw(100, np.random.default_rng(0))
    assert len(set(every)) == 100 == short.space
    assert short.secret("number 3 4 of mine") == "3 4"
    assert {short.secret(canary) for canary in every} == {f"{a} {b}" for a in range(10) for b in range(10)}
    with pytest.raises(BadInput, match="101 canaries of 100 secrets"):
        short.draw(101, np.random.default_rng(0))
    with pytest.raises(BadInput, match="is no canary"):
        short.secret("number 3 4")
    for wrong, said in (
        ({"pattern": "no place"}, "one place"),
        ({"length": 0}, "length=0"),
        ({"alphabet": ("1",)}, "1 symbols"),
        ({"alphabet": ("1", "1")}, "2 symbols"),
    ):
        with pytest.raises(BadInput, match=said):
            Canaries(**wrong)


def test_canaries_are_put_in_as_often_as_said_and_nothing_is_lost():
    codes, found = insert(["a", "b", "a"], ["x", "y", "z"], ["c1", "c2"], "b", 3, np.random.default_rng(0))
    pairs = list(zip(codes, found, strict=True))
    assert sorted(pairs) == sorted([("a", "x"), ("b", "y"), ("a", "z"), *[("b", "c1")] * 3, *[("b", "c2")] * 3])
    assert found[:3] != ["x", "y", "z"]
    assert insert(["a"], ["x"], ["c"], "b", 0, np.random.default_rng(0)) == (["a"], ["x"])
    with pytest.raises(BadInput, match="times=-1"):
        insert(["a"], ["x"], ["c"], "b", -1, np.random.default_rng(0))
    with pytest.raises(BadInput, match="1 codes and 2 texts"):
        insert(["a"], ["x", "y"], ["c"], "b", 1, np.random.default_rng(0))


def test_a_secret_is_found_whatever_stands_around_it():
    short = Canaries("my number is {}", length=4)
    canaries = [f"my number is {secret}" for secret in ("1 2 3 4", "5 6 7 8")]
    uploads = ["call 12 34 now", "MY NUMBER IS 1 2\n3 4", "5 6 7"]
    assert short.appearances(canaries, uploads).tolist() == [2, 0]
    assert short.appearances(canaries, []).tolist() == [0, 0]


# -- overlap ----------------------------------------------------------------------------------------------------------


def test_overlap_is_the_share_of_n_grams_that_stand_in_a_private_text():
    private = ["The soup was cold, and late.", "never again"]
    uploads = ["the soup was hot", "the soup was cold and late", "soup", "", "again never"]
    assert overlap(uploads, private, 2).tolist() == [2 / 3, 1.0, 0.0, 0.0, 0.0]
    assert overlap(["again the"], private, 1).tolist() == [1.0]
    assert overlap(["late never again"], private, 2).tolist() == [0.5]  # across texts nothing is shared
    assert overlap([], private).tolist() == []
    with pytest.raises(BadInput, match="n=0"):
        overlap(uploads, private, 0)


def by_hand(a, b):
    """Wagner and Fischer's table, row by row."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def test_the_nearest_private_text_is_that_of_the_smallest_edit_distance():
    private = ["kitten", "sitting on the mat", "café", ""]
    uploads = ["sitting", "kitten", "cafe", "on the mat", ""]
    table = np.array([[by_hand(upload, text) for text in private] for upload in uploads])
    closest = nearest(uploads, private)
    assert closest.edits.tolist() == table.min(1).tolist() == [3, 0, 1, 8, 0]
    assert closest.index.tolist() == table.argmin(1).tolist()
    assert closest.share.tolist() == [3 / 7, 0.0, 1 / 4, 8 / 10, 0.0]
    assert len(nearest([], private).edits) == 0
    with pytest.raises(BadInput, match="no private text"):
        nearest(uploads, [])
