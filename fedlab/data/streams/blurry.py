"""Blurry tasks: some classes belong to one task, the others have one too and turn up everywhere.

    classes = disjoint + blurry        round(d c) of them disjoint, drawn by the seed
    task t = its disjoint classes, its blurry classes, less what strays, and its share of what strays

A share b of the blurry classes' samples strays to any task, so classes return, and may be seen before their own
task. Si-Blurry draws how many classes, and how many strays, each task gets (Moon et al., MVP, ICCV 2023,
https://arxiv.org/abs/2308.09303); i-Blurry deals them evenly (Koh et al., CLIB, ICLR 2022,
https://arxiv.org/abs/2110.10031). Published code drops what does not divide; here every row comes once.

c classes, T tasks, d the disjoint share, b the blurry share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlab import checks
from fedlab.data.dataset import Split
from fedlab.data.streams.tasks import Tasks
from fedlab.randomness import rng_for


@dataclass(frozen=True)
class SiBlurry:
    """Disjoint and blurry classes over T tasks; a task may have no sample, where sizes are drawn.

    Args:
        phases: Number of tasks T, at least 1.
        disjoint: Share d in [0, 1] of the classes that never return. 1, or blurry=0, is class-incremental.
        blurry: Share b in [0, 1] of the other classes' samples that stray. 1 with disjoint=0 is without order.
        stochastic: Sizes of tasks by the seed (Si-Blurry); False deals evenly (i-Blurry).
    """

    phases: int = 5
    disjoint: float = 0.5
    blurry: float = 0.1
    stochastic: bool = True

    def __post_init__(self) -> None:
        checks.integer("phases", self.phases, least=1)
        checks.share("disjoint", self.disjoint)
        checks.share("blurry", self.blurry)

    def tasks(self, train: Split, test: Split, num_classes: int, seed: int) -> Tasks:
        """See `Stream.tasks`; a task's test rows are those of all classes that it has samples of."""
        rng = rng_for(seed, "blurry")
        classes = rng.permutation(num_classes)
        bound = round(self.disjoint * num_classes)
        task_of_class = np.empty(num_classes, dtype=np.int64)
        for group in (classes[:bound], classes[bound:]):
            task_of_class[group] = self._dealt(len(group), rng)
        task_of = task_of_class[train.labels]
        blurry = rng.permutation(np.flatnonzero(np.isin(train.labels, classes[bound:])))
        strays = blurry[: round(self.blurry * len(blurry))]
        task_of[strays] = self._dealt(len(strays), rng)
        # Within a task everything is mixed.
        order = rng.permutation(len(train))
        rows = tuple(order[task_of[order] == task] for task in range(self.phases))
        own = tuple(np.flatnonzero(np.isin(test.labels, np.unique(train.labels[task]))) for task in rows)
        return Tasks(rows, own)

    def _dealt(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """The task of each of `count` things: contiguous shares, cut evenly or at random."""
        if self.stochastic:
            cuts = np.sort(rng.integers(0, count + 1, size=self.phases - 1))
        else:
            cuts = np.arange(1, self.phases) * count // self.phases
        return np.searchsorted(cuts, np.arange(count), side="right")
