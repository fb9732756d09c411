"""What goes is counted, by its reason; what stays is in its order."""

import numpy as np
import pytest

from fedlab.errors import BadInput
from fedlab.llm.language_model import Completion
from fedlab.llm.synthesis.text_filter import Text, TextFilter, counted


def texts(*said: str) -> list[Text]:
    return [Text(one, "films", "good") for one in said]


def test_short_texts_and_repetitions_go():
    text_filter = TextFilter(min_words=3)
    kept = text_filter.words(
        texts("a fine film", "A  fine film!", "so bad", "shown in the prompt", "another fine film", ""),
        known=["Shown in the prompt."],
    )
    assert [one.text for one in kept] == ["a fine film", "another fine film"]
    assert text_filter.dropped == {"short": 2, "repeated": 2} and counted(text_filter.dropped) == "2 repeated, 2 short"
    assert not text_filter.fresh().dropped and text_filter.fresh() == text_filter


def test_what_means_the_same_goes_and_drops_nobody_itself():
    angles = np.deg2rad([0, 10, 20, 90])  # 0 and 20 are apart, each near to 10
    embedded = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    text_filter = TextFilter(similarity=float(np.cos(np.deg2rad(15))))
    assert text_filter.meaning(embedded, 0).tolist() == [True, False, True, True] and text_filter.dropped["near"] == 1
    assert TextFilter(similarity=1).meaning(embedded, 0).all()
    assert TextFilter().meaning(embedded[:0], 0).tolist() == []


def test_clusters_keep_the_most_typical():
    rng = np.random.default_rng(0)
    centres = np.eye(3).repeat(4, 0)
    embedded = (centres + 0.05 * rng.normal(size=centres.shape)).astype(np.float32)
    text_filter = TextFilter(similarity=1, per_cluster=1)
    stays = text_filter.meaning(embedded, 0)
    assert stays.reshape(3, 4).sum(1).tolist() == [1, 1, 1] and text_filter.dropped["crowded"] == 9
    nearest = np.linalg.norm(embedded.reshape(3, 4, 3) - embedded.reshape(3, 4, 3).mean(1, keepdims=True), axis=2)
    assert (stays.reshape(3, 4).argmax(1) == nearest.argmin(1)).all()


def test_a_doubted_label_goes_whatever_the_model_prefers():
    told = [Text("fine", "films", "good"), Text("awful", "films", "good"), Text("dull", "films", "bad")]
    says = {"fine": (-1.0, -3.0), "awful": (-2.0, -2.5), "dull": (-1.5, -1.6)}  # good is always likelier

    def likelihood(prompts, answers):
        return np.array([says[p.split()[0]][a == " bad"] for p, a in zip(prompts, answers, strict=True)])

    text_filter = TextFilter(judge="likelihood")
    kept = text_filter.label_consistency(told, ["good", "bad"], lambda domain, text: f"{text} of {domain}:", likelihood)
    assert [one.text for one in kept] == ["fine", "dull"] and text_filter.dropped["doubtful"] == 1
    for other in (None, "chat"):
        assert TextFilter(judge=other).label_consistency(told, ["good", "bad"], lambda *_: "", likelihood) == told


def embeddings(clusters: int, each: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = np.eye(clusters).repeat(each, 0)
    return (centres + 0.01 * rng.normal(size=centres.shape)).astype(np.float32)


def judged(answers, texts, embedded, **options):
    """What stays, which texts each question showed, and the filter."""
    shown, text_filter = [], TextFilter(judge="chat", **options)

    def question(some):
        shown.append([one.text for one in some])
        return str(len(shown))

    def answer(prompts):
        return [Completion(answers(shown[int(prompt) - 1]), 1, 1, "stop") for prompt in prompts]

    return text_filter.eligible(texts, embedded, 0, question, answer), shown, text_filter


def test_a_judge_is_asked_once_for_each_cluster_and_what_it_leaves_out_goes():
    told = texts(*[f"text {number}" for number in range(12)])

    def keeps_even(some):
        return ", ".join(str(number) for number, one in enumerate(some, 1) if int(one[5:]) % 2 == 0)

    stays, shown, text_filter = judged(keeps_even, told, embeddings(3, 4))
    assert sorted(shown) == sorted([[f"text {4 * c + i}" for i in range(4)] for c in range(3)])
    assert stays.tolist() == [True, False] * 6
    assert text_filter.dropped == {"ineligible": 6} and text_filter.judged == {"questions": 3}
    assert not text_filter.fresh().judged


def test_an_answer_that_cannot_be_read_costs_no_text_and_is_counted():
    told = texts(*[f"text {number}" for number in range(8)])
    stays, _, text_filter = judged(
        lambda some: "I'd rather not." if "text 0" in some else "none", told, embeddings(2, 4)
    )
    assert stays.tolist() == [True] * 4 + [False] * 4
    assert text_filter.judged == {"questions": 2, "unreadable": 1} and text_filter.dropped == {"ineligible": 4}


def test_a_large_cluster_is_asked_about_in_parts_and_equal_texts_are_one_cluster():
    told = texts(*["the same text"] * 40)
    stays, shown, _ = judged(lambda some: "all", told, np.ones((40, 2), np.float32))
    assert stays.all() and [len(some) for some in shown] == [16, 16, 8]


def test_without_a_judge_nobody_is_asked():
    def never(*_):
        raise AssertionError

    for other in (None, "likelihood"):
        assert TextFilter(judge=other).eligible(texts("a", "b"), embeddings(1, 2), 0, never, never).all()
    assert judged(never, [], embeddings(1, 1)[:0])[0].tolist() == []


@pytest.mark.parametrize(
    "wrong", [{"min_words": 0}, {"similarity": 1.5}, {"similarity": -1}, {"per_cluster": 0}, {"judge": "jury"}]
)
def test_bad_input(wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        TextFilter(**wrong)
