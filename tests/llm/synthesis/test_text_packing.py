"""Texts there and back, and arrays that are none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlab.errors import BadInput
from fedlab.llm.synthesis.text_packing import normal, pack_texts, unpack_texts


@given(st.lists(st.text()))
def test_texts_come_back(texts):
    assert unpack_texts(pack_texts(texts)) == texts


def test_half_a_character_is_refused_with_its_row():
    with pytest.raises(BadInput, match=r"text 1 holds .*half a character"):
        pack_texts(["fine", "not \ud83d fine"])


@pytest.mark.parametrize(
    ("data", "ends"), [(b"ab", [1]), (b"ab", []), (b"ab", [2, 1, 2]), (b"\xff\xfe", [2]), (b"ab", [-1, 2])]
)
def test_arrays_that_hold_no_texts(data, ends):
    with pytest.raises(BadInput, match="hold no texts"):
        unpack_texts({"text": np.frombuffer(data, np.uint8), "ends": np.array(ends, np.int64)})
    with pytest.raises(BadInput, match="hold no texts"):
        unpack_texts({})


def test_what_counts_as_the_same():
    assert normal('  "A fine\n film!" ') == normal("a FINE film.") == "a fine film"
