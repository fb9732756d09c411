"""The policy `min_samples`: whoever has fewer samples answers as one that has none, one by one and in total."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from clients.afl import AFL
from fedlab.errors import BadInput
from fedlab.stats import pack, unpack
from tests.conformance.learners import LEARNERS, SecondRound
from tests.conformance.test_learners import D0, C, agree, total
from tests.draws import samples

SIZES = [9, 3, 0, 5, 1, 30, 4]
LEAST = 5
PLAIN = [row for row in LEARNERS if hasattr(row.learner, "train_in_total")]
EVERY = pytest.mark.parametrize("row", PLAIN, ids=lambda row: row.name)


def clients():
    x, labels = samples(sum(SIZES), D0, C)
    return x, labels, list(zip(x.split(SIZES), labels.split(SIZES), strict=True))


@EVERY
def test_one_by_one_and_in_total_are_the_same_answers(row):
    learner, (x, labels, held) = replace(row.learner, min_samples=LEAST), clients()
    answers = [learner.train({}, {}, *part, 0)[0] for part in held]
    config = {"class-weights": list(SecondRound.weights.values)} if isinstance(learner, SecondRound) else {}
    found = learner.train_in_total(x, labels, SIZES, {}, config)
    if found is not None:  # None: each client answers by itself
        packed, num_bytes = found
        agree(row, total(map(unpack, answers)), unpack(packed))
        assert num_bytes == sum(array.nbytes + 128 for answer in answers for array in answer.values())


@EVERY
def test_silence_is_the_answer_of_no_data(row):
    learner, (_, _, held) = replace(row.learner, min_samples=LEAST), clients()
    nobody, answers = held[SIZES.index(0)], [learner.train({}, {}, *part, 7)[0] for part in held]
    silent = learner.train({}, {}, *nobody, 7)[0]
    as_it_was = [row.learner.train({}, {}, *part, 7)[0] for part in held]
    for n, answer, usual in zip(SIZES, answers, as_it_was, strict=True):
        expected = usual if n >= LEAST else silent
        assert answer.keys() == expected.keys()
        assert all(np.array_equal(answer[name], expected[name]) for name in expected)


def test_off_is_the_default_and_saved_heads_do_not_care(tmp_path):
    x, labels, _ = clients()
    learner = AFL(C)
    assert learner.min_samples == 0
    weight = learner.fit(learner.observe(x, labels))
    learner.save(tmp_path / "head.safetensors", weight)
    assert torch.equal(replace(learner, min_samples=LEAST).load(tmp_path / "head.safetensors"), weight)
    # The policy is about answers; what is observed here and now is still everything.
    few = replace(learner, min_samples=len(x) + 1)
    assert few.observe(x, labels).count == len(x)
    assert unpack(few.train({}, {}, x, labels, 0)[0]).count == 0
    assert unpack(pack(few.sum_clients(x, labels, SIZES)[0])).count == 0


@pytest.mark.parametrize("value", [-1, 2.5, True])
def test_what_is_no_number_of_samples_is_refused(value):
    with pytest.raises(BadInput, match=rf"min_samples={value!r} must be a whole number >= 0"):
        AFL(C, min_samples=value)


def test_samples_that_are_left_out_are_checked_all_the_same():
    x, labels, held = clients()
    learner = AFL(C, min_samples=LEAST)
    with pytest.raises(BadInput, match="NaN or infinite"):
        learner.train({}, {}, held[1][0] * float("nan"), held[1][1], 0)
    x[SIZES[0]] = float("inf")  # the first row of a client that is left out
    with pytest.raises(BadInput, match="NaN or infinite"):
        learner.train_in_total(x, labels, SIZES)
