"""What becomes of each task: accuracy on evaluation task e after step s of a stream.

    forgetting          mean_e ( max_{b_e <= s < S} R[s, e]  -  R[S, e] )
    backward transfer   mean_e ( R[S, e]  -  R[l_e, e] )
    forward transfer    mean_e   R[b_e - 1, e]

over the tasks that were learnt before the last step S (forgetting, backward transfer) or begun after the first
(forward transfer: what a model knows of a task that it has not met). b_e and l_e are the first and the last step
at which anyone learns what e is about.

Chaudhry et al., Riemannian Walk, ECCV 2018, https://arxiv.org/abs/1801.10112 (forgetting); Lopez-Paz and Ranzato,
GEM, NeurIPS 2017, https://arxiv.org/abs/1706.08840 (transfer; there less the accuracy of an untrained model, which
a closed form does not have).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64


@dataclass(frozen=True, eq=False)
class TaskMatrix:
    """Accuracies after each step, (S, E); NaN where a task was not evaluated.

    Args:
        accuracy: Accuracies R.
        begun, ended: Steps b_e and l_e, (E,), counted from 0.
    """

    accuracy: Float64[np.ndarray, "s e"]
    begun: Int64[np.ndarray, " e"]
    ended: Int64[np.ndarray, " e"]

    @property
    def forgetting(self) -> float:
        """How far accuracy on a task has fallen from its best; NaN where none was learnt before the last step."""
        R, last = self.accuracy, len(self.accuracy) - 1
        return _mean(_largest(R[self.begun[e] : last, e]) - R[last, e] for e in self._former)

    @property
    def backward_transfer(self) -> float:
        """How far accuracy on a task has risen since it was learnt: negative where it was forgotten."""
        R = self.accuracy
        return _mean(R[-1, e] - R[self.ended[e], e] for e in self._former)

    @property
    def forward_transfer(self) -> float:
        """Accuracy on a task just before anything that it is about was learnt; NaN where none was evaluated then."""
        return _mean(self.accuracy[self.begun[e] - 1, e] for e in np.flatnonzero(self.begun > 0))

    @property
    def _former(self) -> Iterable[int]:
        return np.flatnonzero(self.ended < len(self.accuracy) - 1)


def _largest(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else np.nan


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else np.nan
