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
    grams = [set(_grams(text, n)) for text in uploads]
    return np.array([len(own & known) / len(own) if own else 0.0 for own in grams])


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
        from rapidfuzz.process import extractOne
    closest = [extractOne(text, private, scorer=Levenshtein.distance) for text in uploads]
    edits = np.array([distance for _, distance, _ in closest], np.int64)
    longer = [max(len(text), len(other), 1) for text, (other, _, _) in zip(uploads, closest, strict=True)]
    return Nearest(edits, edits / np.array(longer, float), np.array([row for _, _, row in closest], np.int64))


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
