"""How much of what was uploaded stands word for word in private texts, or nearly so.

    overlap_n(u) = |{ n-grams of u that are in any private text }| / |{ n-grams of u }|
    nearest(u)   = min over private texts x of the edits that make x of u        (insert, delete, replace a letter)

Neither proves privacy: texts of one domain share phrases by themselves. Both are read beside the same numbers
against texts that nobody trained on. They are computed from private texts, so they too stay with whoever has those.

Levenshtein, 1966; with the bits of machine words: Myers, J. ACM 1999, https://doi.org/10.1145/316542.316550, here
by rapidfuzz. n-grams of training data in what models write: McCoy et al., TACL 2023,
https://arxiv.org/abs/2111.09509. u uploads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.extras import needs

BLOCK = 2**22
"""Distances that are held at once."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, eq=False)
class Nearest:
    """The private text that each upload is closest to.

    Attributes:
        edits: Smallest number of edits, (u,).
        share: Edits over the longer one's letters, (u,): 0 is a copy, 1 has nothing in common.
        index: Row of the private text, (u,).
    """

    edits: Int64[np.ndarray, " u"]
    share: Float64[np.ndarray, " u"]
    index: Int64[np.ndarray, " u"]


def overlap(uploads: Sequence[str], private: Sequence[str], n: int = 5) -> Float64[np.ndarray, " u"]:
    """Return the share of each upload's n-grams that stand in a private text; 0 where it has none.

    Words are compared without case and punctuation.

    Args:
        uploads, private: Texts that left the client, and texts it has.
        n: Words of an n-gram, >= 1; 5 and more are seldom shared by chance.

    Raises:
        BadInput: n is below 1.
    """
    checks.integer("n", n, least=1, remedy="an n-gram has n words")
    known = {gram for text in private for gram in _grams(text, n)}
    shares = []
    for text in uploads:
        own = set(_grams(text, n))
        shares.append(len(own & known) / len(own) if own else 0.0)
    return np.array(shares)


def nearest(uploads: Sequence[str], private: Sequence[str]) -> Nearest:
    """Return the closest private text of every upload, by edits of letters.

    Args:
        uploads, private: Texts that left the client, and texts it has; of the latter at least one.

    Raises:
        BadInput: There is no private text, or rapidfuzz is not installed.
    """
    if not private:
        raise BadInput("there is no private text to be near to: give at least one")
    with needs("an edit distance"):
        from rapidfuzz.distance import Levenshtein
        from rapidfuzz.process import cdist
    edits = np.zeros(len(uploads), np.int64)
    index = np.zeros(len(uploads), np.int64)
    rows = max(1, BLOCK // len(private))
    for first in range(0, len(uploads), rows):
        block = cdist(uploads[first : first + rows], private, scorer=Levenshtein.distance, dtype=np.int32)
        closest = block.argmin(1)
        index[first : first + rows] = closest
        edits[first : first + rows] = block[np.arange(len(block)), closest]
    longer = [max(len(text), len(private[i]), 1) for text, i in zip(uploads, index.tolist(), strict=True)]
    return Nearest(edits, edits / np.array(longer, float), index)


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
