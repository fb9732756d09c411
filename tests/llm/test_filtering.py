"""What goes is counted, by its reason; what stays is in its order."""

import numpy as np
import pytest

from fedlab.errors import BadInput
from fedlab.llm.filtering import Sieve, Text, counted


def texts(*said: str) -> list[Text]:
    return [Text(one, "films", "good") for one in said]


def test_short_texts_and_repetitions_go():
    sieve = Sieve(min_words=3)
    kept = sieve.words(
        texts("a fine film", "A  fine film!", "so bad", "shown in the prompt", "another fine film", ""),
        known=["Shown in the prompt."],
    )
    assert [one.text for one in kept] == ["a fine film", "another fine film"]
    assert sieve.dropped == {"short": 2, "repeated": 2} and counted(sieve.dropped) == "2 repeated, 2 short"
    assert not sieve.fresh().dropped and sieve.fresh() == sieve


def test_what_means_the_same_goes_and_drops_nobody_itself():
    angles = np.deg2rad([0, 10, 20, 90])  # 0 and 20 are apart, each near to 10
    embedded = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    sieve = Sieve(similarity=float(np.cos(np.deg2rad(15))))
    assert sieve.meaning(embedded, 0).tolist() == [True, False, True, True] and sieve.dropped["near"] == 1
    assert Sieve(similarity=1).meaning(embedded, 0).all()
    assert Sieve().meaning(embedded[:0], 0).tolist() == []


def test_clusters_keep_the_most_typical():
    rng = np.random.default_rng(0)
    centres = np.eye(3).repeat(4, 0)
    embedded = (centres + 0.05 * rng.normal(size=centres.shape)).astype(np.float32)
    sieve = Sieve(similarity=1, per_cluster=1)
    stays = sieve.meaning(embedded, 0)
    assert stays.reshape(3, 4).sum(1).tolist() == [1, 1, 1] and sieve.dropped["crowded"] == 9
    nearest = np.linalg.norm(
        embedded.reshape(3, 4, 3) - embedded.reshape(3, 4, 3).mean(1, keepdims=True), axis=2
    )
    assert (stays.reshape(3, 4).argmax(1) == nearest.argmin(1)).all()


def test_a_doubted_label_goes_whatever_the_model_prefers():
    told = [Text("fine", "films", "good"), Text("awful", "films", "good"), Text("dull", "films", "bad")]
    says = {"fine": (-1.0, -3.0), "awful": (-2.0, -2.5), "dull": (-1.5, -1.6)}  # good is always likelier

    def likelihood(prompts, answers):
        return np.array([says[p.split()[0]][a == " bad"] for p, a in zip(prompts, answers, strict=True)])

    sieve = Sieve(doubt=True)
    kept = sieve.doubts(told, ["good", "bad"], lambda domain, text: f"{text} of {domain}:", likelihood)
    assert [one.text for one in kept] == ["fine", "dull"] and sieve.dropped["doubtful"] == 1
    assert Sieve().doubts(told, ["good", "bad"], lambda *_: "", likelihood) == told


@pytest.mark.parametrize(
    "wrong", [{"min_words": 0}, {"similarity": 1.5}, {"similarity": -1}, {"per_cluster": 0}]
)
def test_bad_input(wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        Sieve(**wrong)
