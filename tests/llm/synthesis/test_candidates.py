"""What comes into a pool is sifted together with what is there; what leaves it is outvoted, and counted."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fedlab.features.hashed import HashedWords
from fedlab.llm.synthesis.candidates import CandidatePool
from fedlab.llm.synthesis.few_shot import JUDGING, Writer
from fedlab.llm.synthesis.judge_answers import ELIGIBLE
from fedlab.llm.synthesis.prompts import Prompts
from fedlab.llm.synthesis.text_filter import Text, TextFilter
from fedlab.llm.synthesis.text_packing import unpack_texts
from tests.llm.phrasebook import Phrasebook

SAID = {
    ("food", "positive"): ["the soup was lovely", "the bread was great", "the cake was fine indeed"],
    ("food", "negative"): ["the rice was awful", "the salad was sad"],
    ("music", "positive"): ["the song was superb"],
}
TEXTS = [Text(text, *code) for code, texts in SAID.items() for text in texts]


@pytest.fixture
def make(tmp_path):
    def make(**options):
        names = {name: f"about {name}" for name in ("food", "music")}
        prompts = Prompts("{text}", names, judge="{texts}", demonstrations={"food": {"positive": ["shown as it is"]}})
        writer = Writer(Phrasebook(), prompts, cache=str(tmp_path))
        return CandidatePool(TextFilter(**options), writer, HashedWords(), ["negative", "positive"])

    return make


def test_a_pool_sifts_what_comes_with_what_it_has(make):
    pool = make()
    assert len(pool) == 0 == len(pool.rows("food")) and pool.by_code() == {}
    pool.add([*TEXTS, Text("Shown as it is.", "food", "positive")], "first", 0)
    assert pool.texts == TEXTS and pool.by_code() == SAID
    assert pool.embedded.shape[0] == len(pool.votes) == 6 and pool.rows("music").tolist() == [5]
    pool.add([Text("The soup was LOVELY", "food", "positive"), Text("so short", "food", "positive")], "second", 0)
    assert pool.texts == TEXTS and pool.text_filter.dropped["repeated"] == 2 and pool.text_filter.dropped["short"] == 1
    assert [(s["stage"], s["came"], s["kept"]) for s in pool.stages] == [("first", 7, 6), ("second", 2, 6)]


def test_the_most_voted_of_each_domain_and_label_stay_in_the_order_of_their_votes(make):
    pool = make()
    pool.add(TEXTS, "candidates", 0)
    embedded = pool.embedded
    pool.votes += [1.0, 3.0, 2.0, 5.0, 0.5, -1.0]
    asked = []
    pool.select_top(lambda *code: asked.append(code) or max(1, code[2] - 1), "elected")
    assert asked == [("food", "positive", 3), ("food", "negative", 2), ("music", "positive", 1)]
    assert pool.texts == [TEXTS[row] for row in (3, 1, 2, 5)] and pool.votes.tolist() == [5.0, 3.0, 2.0, -1.0]
    assert np.array_equal(pool.embedded, embedded[[3, 1, 2, 5]]) and pool.text_filter.dropped["outvoted"] == 2
    model = pool.model()
    assert unpack_texts(model) == [one.text for one in pool.texts] and model["labels"].tolist() == [0, 1, 1, 1]


def test_a_judge_is_heard_and_a_pool_is_taken_up_again_where_it_was_left(make):
    pool, other = make(judge="chat"), make(judge="chat")
    pool.add([*TEXTS, Text("the coffee was great", "food", "positive")], "candidates", 0)
    assert pool.texts == TEXTS and +pool.text_filter.dropped == {"ineligible": 1}
    assert len(pool.embedded) == 6 and pool.text_filter.judged == {"questions": 2}
    state = pool.state_dict()
    json.dumps({name: value for name, value in state.items() if not isinstance(value, np.ndarray)})
    other.load_state_dict(state)
    for name, value in other.state_dict().items():
        assert np.array_equal(value, state[name]) if isinstance(value, np.ndarray) else value == state[name]
    assert other.texts == TEXTS


@pytest.mark.parametrize("can", [True, False])
def test_a_judge_is_held_to_a_schema_where_its_model_can_be(make, monkeypatch, can):
    """One that cannot is asked to the letter what it was always asked: its answers are found again."""
    samplings = []

    def complete(self, prompts, sampling, seeds, arrived, complete=Phrasebook._complete):
        samplings.append(sampling)
        complete(self, prompts, sampling, seeds, arrived)

    monkeypatch.setattr(Phrasebook, "_complete", complete)
    monkeypatch.setattr(Phrasebook, "follows_schema", can)
    make(judge="chat").add(TEXTS, "candidates", 0)
    assert samplings == [replace(JUDGING, schema=ELIGIBLE if can else None)]
    fields = {"max_tokens": 96, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "stop": []}
    assert samplings[0].as_dict() == fields | ({"schema": ELIGIBLE} if can else {})
