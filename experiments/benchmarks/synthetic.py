"""A dataset of any size for benchmarks: Gaussian features around a centre for each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlab.data.dataset import Dataset, Split


@dataclass(frozen=True)
class Synthetic:
    """Samples around one centre per class, as float32.

    Args:
        samples, features, classes: n, d and c of the training split; the test split has 1000 samples.
        seed: Draws everything.
    """

    samples: int
    features: int
    classes: int
    seed: int = 0

    def load(self) -> Dataset:
        """Return the dataset."""
        rng = np.random.default_rng(self.seed)
        centres = rng.normal(0, 0.3, (self.classes, self.features)).astype(np.float32)

        def split(n: int) -> Split:
            labels = rng.integers(0, self.classes, n)
            noise = rng.standard_normal((n, self.features), dtype=np.float32)
            return Split((centres[labels] + 0.7 * noise).astype(np.float32), labels)

        names = tuple(str(i) for i in range(self.classes))
        return Dataset("synthetic", "tabular", split(self.samples), split(1000), names)
