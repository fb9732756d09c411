"""Texts as arrays: what a message of a federation can carry, and how two texts are told apart.

    texts -> (UTF-8 bytes of all, where each ends)

A row that is no UTF-8 is refused where it is read, with its number, and never sent half.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from fedlab.errors import BadInput

_BETWEEN = re.compile(r"\s+")


def pack_texts(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return n texts as `text` (bytes of all, uint8) and `ends` (n,) int64.

    Raises:
        BadInput: A text holds half a character (a lone surrogate), which no UTF-8 can say.
    """
    encoded = []
    for row, text in enumerate(texts):
        try:
            encoded.append(text.encode())
        except UnicodeEncodeError as error:
            raise BadInput(
                f"text {row} holds {error.object[error.start : error.end]!r}, half a character: clean the text"
            ) from error
    ends = np.cumsum([len(one) for one in encoded], dtype=np.int64)
    return {"text": np.frombuffer(b"".join(encoded), np.uint8), "ends": ends.astype(np.int64)}


def unpack_texts(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return the texts that `pack_texts` packed.

    Raises:
        BadInput: The arrays are none of texts.
    """
    try:
        data, ends = arrays["text"].tobytes(), arrays["ends"].astype(np.int64).tolist()
        if ends != sorted(ends) or (ends and (ends[0] < 0 or ends[-1] != len(data))) or (data and not ends):
            raise ValueError(f"{len(data)} bytes end at {ends[-1:]}")
        return [data[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]
    except (KeyError, ValueError, AttributeError) as error:
        raise BadInput(f"these arrays hold no texts ({error}): let the sender pack them again") from error


def normal(text: str) -> str:
    """Return a text as it is compared: lower case, single spaces, no marks at its ends."""
    return _BETWEEN.sub(" ", text).strip(" \t\n\"'`.,;:!?-").lower()
