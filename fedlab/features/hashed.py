"""Texts as hashed words: no weights, no download, a thousand texts in milliseconds.

    phi(x) = z / |z|,   z_j = sum over the words and pairs of words w of x with h(w) = j of sign(w)

Weinberger et al., Feature Hashing for Large Scale Multitask Learning, ICML 2009, https://arxiv.org/abs/0902.2206.
It knows no two words that mean the same; where that matters, take a trained encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32

from fedlab import checks
from fedlab.features.batches import Progress, kind_of, require_kind
from fedlab.features.weights import fingerprint_of


@dataclass(frozen=True)
class HashedWords:
    """Words and pairs of words in `width` coordinates of unit norm.

    Parameters
    ----------
    width
        Number of coordinates d, at least 2.
    """

    width: int = 256

    kinds: ClassVar[frozenset[str]] = frozenset({"text"})

    def __post_init__(self) -> None:
        checks.integer("width", self.width, least=2)

    def fingerprint(self) -> str:
        """Hash the name and the width; there are no weights."""
        return fingerprint_of("hashed words", width=self.width, ngrams=[1, 2])

    def extract(
        self,
        inputs: Sequence[str] | np.ndarray,
        *,
        device: str = "cpu",
        batch_size: int = 4096,
        progress: Progress | None = None,
    ) -> Float32[np.ndarray, "n d"]:
        """Return (n, width) float32, at once; a text without words is zero. See `Backbone.extract`."""
        from sklearn.feature_extraction.text import HashingVectorizer

        require_kind("HashedWords", self.kinds, kind_of(inputs))
        if len(inputs) == 0:
            return np.zeros((0, self.width), dtype=np.float32)
        vectors: Any = HashingVectorizer(n_features=self.width, ngram_range=(1, 2), norm="l2")
        features = vectors.transform(list(inputs)).toarray()
        if progress is not None:
            progress(len(inputs), len(inputs))
        return features.astype(np.float32)
