"""Exact statistics as one vector of integers: what can be masked, and added modulo 2^64.

    (G_11, G_12, ..., G_dd | C row by row | n_1, ..., n_c | saturated)        d(d+1)/2 + dc + c + 1 numbers

Every client's vector has the same length, whatever it holds, so that the length tells nothing. A sum of vectors
is the vector of the sum, bit for bit, as long as no entry of it reaches 2^63: each of k clients keeps its own
below 2^63/k. What carries noise has no counts, and so ends after C. d features, c classes.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from fedlab.errors import BadInput
from fedlab.stats.arithmetic.triangle import flatten, symmetric, triangle_entries
from fedlab.stats.gram import GramStats
from fedlab.stats.noisy import NoisyGram

KINDS = (GramStats, NoisyGram)
"""Of the statistics that can be masked, by their number in a layout."""


@dataclass(frozen=True)
class Layout:
    """What a vector's entries mean: settings, and nothing that depends on samples.

    Attributes:
        kind: Place in `KINDS`.
        num_features, num_classes: Numbers of features d and of classes c.
        scale: Integer units per 1.0 of a feature.
        gram_variance, cross_variance: Variances of one client's share of noise.
    """

    kind: int
    num_features: int
    num_classes: int
    scale: float
    gram_variance: float = 0.0
    cross_variance: float = 0.0

    @property
    def length(self) -> int:
        """Return the number of integers."""
        d, c = self.num_features, self.num_classes
        return triangle_entries(d) + d * c + (c + 1 if KINDS[self.kind] is GramStats else 0)

    def numbers(self) -> np.ndarray:
        """Return it as an array, (6,) float64."""
        return np.array(astuple(self), np.float64)

    @classmethod
    def of(cls, statistics: Any) -> Layout:
        """Return the layout of statistics.

        Raises:
            BadInput: They are no exact integers, or of a kind whose vector is not defined.
        """
        name = type(statistics).__name__
        if type(statistics) not in KINDS or getattr(statistics, "weighting", None) is not None:
            raise BadInput(f"{name} cannot be masked: plain sums can, of methods that send them in one round, e.g. afl")
        if statistics.scale is None:
            raise BadInput("statistics in float64 cannot be masked, only integers can: say mode=exact")
        noisy = isinstance(statistics, NoisyGram)
        variances = (statistics.gram_variance, statistics.cross_variance) if noisy else ()
        kind, d, c = KINDS.index(type(statistics)), statistics.num_features, statistics.num_classes
        return cls(kind, d, c, statistics.scale, *variances)

    @classmethod
    def read(cls, numbers: np.ndarray) -> Layout:
        """Return the layout that an array of `numbers` says.

        Raises:
            BadInput: It says none.
        """
        if numbers.shape != (6,) or numbers.dtype != np.float64 or not np.isfinite(numbers).all():
            raise BadInput(f"a layout is six numbers, this is {numbers.dtype}{list(numbers.shape)}")
        kind, d, c = numbers[:3].astype(np.int64).tolist()
        if not (0 <= kind < len(KINDS) and min(d, c) >= 1 and numbers[3] > 0 and (numbers[4:] >= 0).all()):
            raise BadInput(f"a layout cannot be {numbers.tolist()}")
        return cls(kind, d, c, *numbers[3:].tolist())


def integers(statistics: Any, clients: int) -> Int64[np.ndarray, " l"]:
    """Return the vector of exact statistics, one of `clients` that will be added.

    Raises:
        BadInput: They are not exact, or so large that the sum of as many could pass 2^63.
    """
    Layout.of(statistics)
    parts = [flatten(statistics.gram.cpu().numpy()), statistics.cross.cpu().numpy().reshape(-1)]
    if isinstance(statistics, GramStats):
        parts += [statistics.class_counts.cpu().numpy(), np.array([statistics.saturated])]
    vector = np.concatenate(parts).astype(np.int64, copy=False)
    largest, limit = max(int(vector.max()), -int(vector.min())), 2**63 // clients
    if largest >= limit:
        raise BadInput(
            f"an entry of {largest:.3g} could pass 2^63 in the sum of {clients} clients (limit {limit:.3g} each): "
            "lower bits, or let the client hold fewer samples"
        )
    return vector


def statistics_of(vector: Int64[np.ndarray, " l"], layout: Layout, clients: int) -> GramStats | NoisyGram:
    """Return the statistics that a sum of vectors says.

    Args:
        vector: Sum of the vectors.
        layout: Layout of each of them.
        clients: Number of clients that were added.

    Raises:
        BadInput: It has another length, or is no sum of any samples: something in it was not taken off, or tampered
            with.
    """
    d, c, end = layout.num_features, layout.num_classes, triangle_entries(layout.num_features)
    if vector.shape != (layout.length,):
        raise BadInput(f"a sum of {len(vector)} integers: {d} features and {c} classes make {layout.length}")
    gram = symmetric(vector[:end], d)
    cross = torch.from_numpy(vector[end : end + d * c].reshape(d, c).copy())
    if KINDS[layout.kind] is NoisyGram:
        variances = [sum([one] * clients) for one in (layout.gram_variance, layout.cross_variance)]
        return NoisyGram(torch.from_numpy(gram), cross, layout.scale, *variances)
    counts, saturated = vector[end + d * c : -1].copy(), int(vector[-1])
    diagonal = np.diagonal(gram)
    largest = max(int(diagonal.max()), 0)
    beyond = int(gram.max()) > largest or int(gram.min()) < -largest  # |G_ij| <= max_i G_ii
    if saturated < 0 or (counts < 0).any() or (diagonal < 0).any() or beyond:
        raise BadInput(
            f"the sum over {clients} clients is not that of any samples: a mask was not taken off, or something was "
            "tampered with"
        )
    counts = torch.from_numpy(counts)
    return GramStats(cross, counts, layout.scale, saturated, matrix=torch.from_numpy(gram))
