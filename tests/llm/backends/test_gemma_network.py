"""The packaged Gemma as a network of transformers says what it says in llama.cpp."""

import os

import numpy as np
import pytest

from fedlab.llm.backends.gguf import Gguf
from fedlab.llm.backends.huggingface import HuggingFace

pytest.importorskip("xllamacpp", reason="extra 'llm' is not installed")

TEXTS = ["loved the story and the actors.", "wanted my money back after ten minutes."]


@pytest.mark.skipif("FEDLAB_SLOW" not in os.environ, reason="minutes the first time: FEDLAB_SLOW=1 runs it")
def test_it_finds_texts_as_likely_as_llama_cpp_does():
    prompts = ["The movie was great and I"] * len(TEXTS)
    with Gguf() as file, HuggingFace() as network:
        a, b = (model.log_likelihood(prompts, [f" {text}" for text in TEXTS]) for model in (file, network))
    assert a[:, 1].tolist() == b[:, 1].tolist()  # the same tokens
    # 4 bits of a weight and 8 of what it multiplies, against float32 of the same weights
    np.testing.assert_allclose(a[:, 0], b[:, 0], atol=0.15 * a[:, 1].max() ** 0.5)
