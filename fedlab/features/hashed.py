"""Texts as hashed words: no weights, no download, a thousand texts in milliseconds.

    phi(x) = z / |z|,   z_j = sum over the words and pairs of words w of x with h(w) = j of sign(w)

Weinberger et al., Feature Hashing for Large Scale Multitask Learning, ICML 2009, https://arxiv.org/abs/0902.2206.
It knows no two words that mean the same; where that matters, take a trained encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fedlab import checks
from fedlab.features.backbone import Backbone
from fedlab.features.batches import Progress
from fedlab.features.weights import fingerprint_of


@dataclass(frozen=True)
class HashedWords(Backbone):
    """Words and pairs of words in `width` coordinates of unit norm.

    Args:
        width: Number of coordinates d, at least 2.
    """

    width: int = 256

    kinds: ClassVar[frozenset[str]] = frozenset({"text"})

    def __post_init__(self) -> None:
        checks.integer("width", self.width, least=2)

    def fingerprint(self) -> str:
        """Hash the name and the width; there are no weights."""
        return fingerprint_of("hashed words", width=self.width, ngrams=[1, 2])

    def _embed(self, inputs: Any, kind: str, device: str, batch: int, progress: Progress | None) -> np.ndarray:
        """Return (n, width) float32, at once; a text without words is zero."""
        from sklearn.feature_extraction.text import HashingVectorizer

        if len(inputs) == 0:
            return np.zeros((0, self.width), dtype=np.float32)
        vectors: Any = HashingVectorizer(n_features=self.width, ngram_range=(1, 2), norm="l2")
        features = vectors.transform(list(inputs)).toarray()
        if progress is not None:
            progress(len(inputs), len(inputs))
        return features.astype(np.float32)
