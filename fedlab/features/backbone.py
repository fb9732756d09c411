"""Frozen extractors: inputs of one kind in, one row of features per input out.

Nothing here is trained. All clients share one frozen map x -> phi(x), which is what lets their sums of
phi(x) phi(x)^T be added; so a backbone is a value: hashable, without state, known by the fingerprint of its
weights and transform. Heavy libraries are imported by the backbone that runs them, when it runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32

from fedlab.features.batches import Progress, kind_of, require_kind


class Backbone(ABC):
    """What every extractor offers: which kinds it reads, a fingerprint, and features."""

    kinds: ClassVar[frozenset[str]]
    batch_size: ClassVar[int] = 64

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash name, transform and weights: equal fingerprints give equal features."""

    def extract(
        self,
        inputs: Sequence[str] | np.ndarray,
        *,
        device: str = "cpu",
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> Float32[np.ndarray, "n d"]:
        """Map n inputs to n rows of features.

        Args:
            inputs: Texts, a list of n str; images, (n, h, w, 3) uint8; or numbers, (n, d).
            device: Device of the network: 'cpu', 'cuda', 'cuda:1', ...
            batch_size: Inputs per batch; None for the backbone's own. Rows of other batch sizes agree to float32's
                rounding, not to the bit.
            progress: Callback progress(done, n), after every batch.

        Raises:
            BadInput: The inputs are of another kind, the device or the model does not exist, or an extra is not
                installed.
        """
        kind = kind_of(inputs)
        require_kind(type(self).__name__, self.kinds, kind)
        size = self.batch_size if batch_size is None else batch_size
        return self._embed(inputs, kind, device, size, progress)

    @abstractmethod
    def _embed(self, inputs: Any, kind: str, device: str, batch: int, progress: Progress | None) -> np.ndarray:
        """Return the features of inputs that it reads."""
