"""A long tail made of an even dataset: few classes have many samples, many have few.

    n_y = min(held_y, floor(n_max rho^(-i/(c-1))))        i = the class's place, 0 .. c-1

Cui et al., Class-Balanced Loss, CVPR 2019, https://arxiv.org/abs/1901.05555; as a stream, Liu et al.,
Long-Tailed Class Incremental Learning, ECCV 2022, https://arxiv.org/abs/2210.00266.

c classes with training samples, held_y samples of class y, n_max of the largest, rho the imbalance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlab import checks
from fedlab.data.dataset import Split
from fedlab.data.streams.tasks import SampleIncremental, Stream, Tasks
from fedlab.randomness import rng_for

PLACES = ("given", "shuffled")


@dataclass(frozen=True)
class LongTailed:
    """Thin the training rows to a long tail and hand what is left to another stream; test rows stay even.

    Which class comes when is the other stream's: `ClassIncremental(order="descending")` is the "ordered" setting
    of long-tailed class-incremental learning, `order="shuffled"` the "shuffled" one.

    Args:
        rho: Largest class over smallest, at least 1 (nothing is thinned). No class with samples loses its last.
        stream: Stream of the rows that are left; None for one task with all of them.
        places: Places of the classes. "given": class y has place y, the first is the largest, as published;
            "shuffled" by seed.
    """

    rho: float = 100
    stream: Stream | None = None
    places: str = "given"

    def __post_init__(self) -> None:
        checks.number("rho", self.rho, least=1, remedy="1 thins nothing, 100 is usual")
        checks.choice("places", self.places, PLACES)

    def tasks(self, train: Split, test: Split, num_classes: int, seed: int) -> Tasks:
        """See `Stream.tasks`; rows of `train` that were thinned out are in no task."""
        kept = self.kept(train.labels, seed)
        # Streams look at labels and groups: the inputs need not be copied.
        groups = {name: ids[kept] for name, ids in train.groups.items()}
        left = Split(np.empty((len(kept), 0), np.float32), train.labels[kept], groups)
        tasks = (self.stream or SampleIncremental(1)).tasks(left, test, num_classes, seed)
        return Tasks(tuple(kept[rows] for rows in tasks.rows), tasks.test)

    def kept(self, labels: np.ndarray, seed: int) -> np.ndarray:
        """Return the rows that stay, ascending; the seed draws them."""
        rng = rng_for(seed, "long tail")
        classes, held = np.unique(labels, return_counts=True)
        places = rng.permutation(len(classes))
        if self.places == "given":
            places = np.sort(places)
        # A hair is added so that a whole number is not cut by its rounding.
        sizes = max(held, default=0) * float(self.rho) ** (-places / max(len(classes) - 1, 1)) + 1e-9
        sizes = np.clip(np.floor(sizes).astype(np.int64), 1, held)
        parts = [
            rng.permutation(np.flatnonzero(labels == label))[:size] for label, size in zip(classes, sizes, strict=True)
        ]
        return np.sort(np.concatenate([np.zeros(0, np.int64), *parts]))
