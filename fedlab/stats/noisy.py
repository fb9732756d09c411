"""Ridge statistics that carry noise, and nothing that does not.

    G~ = G + (Z + Z')/2,   C~ = C + N        W = (P(G~) + g I)^-1 C~,    P sets negative eigenvalues to zero

Counts, class counts and saturation are data too: they are not here, so that they cannot be released by mistake.
P and the ridge are free, for they look at what is released already; they matter more than a factor in epsilon.
Below the noise's own spectral norm, about s sqrt(2 d), a direction of G~ tells nothing, and that is the ridge.

Before noise is added, and under secure aggregation, entries are exact integers; with Gaussian noise they are
float64 in the units of the features. d features, c classes, s the noise's standard deviation on G's diagonal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.stats.arithmetic.memory import check_memory
from fedlab.stats.arithmetic.product import WRAPS
from fedlab.stats.arithmetic.solve import Solution, check_finite, one_thread
from fedlab.stats.arithmetic.triangle import flatten
from fedlab.stats.arithmetic.union import check_fits, sha256_of
from fedlab.stats.gram import GramStats

LARGEST = 2.0**62
"""An entry up to which two integers can be added."""


@dataclass(frozen=True, eq=False)
class NoisyGram:
    """Sums over samples that nobody counted.

    Attributes:
        gram: Gram matrix G~, (d, d), symmetric: int64, or float64 in the units of the features.
        cross: Cross term C~, (d, c), of the same type.
        scale: Integer units per 1.0 of a feature; None in float64.
        gram_variance, cross_variance: Variance of the noise on G's diagonal (half of it beside) and on C's entries,
            in units of the features; 0 where there is none yet.
    """

    gram: Tensor
    cross: Tensor
    scale: float | None = None
    gram_variance: float = 0.0
    cross_variance: float = 0.0

    @classmethod
    def without_counts(cls, statistics: GramStats) -> NoisyGram:
        """Return the sums of these statistics alone: no noise yet, and no count."""
        return cls(statistics.gram, statistics.cross, statistics.scale)

    @property
    def num_features(self) -> int:
        """Return d."""
        return self.cross.shape[0]

    @property
    def num_classes(self) -> int:
        """Return c."""
        return self.cross.shape[1]

    @cached_property
    def sha256(self) -> str:
        """Digest of every number."""
        header = (self.num_features, self.num_classes, self.scale, (self.gram_variance, self.cross_variance))
        return sha256_of(header, [flatten(self.gram.cpu().numpy()), self.cross])

    def real(self) -> NoisyGram:
        """Return the same sums as float64, in the units of the features."""
        if self.scale is None:
            return self
        unit = self.scale**2  # targets are ones: C carries one scale, G two
        gram, cross = self.gram.to(torch.float64) / unit, self.cross.to(torch.float64) / self.scale
        return replace(self, gram=gram, cross=cross, scale=None)

    def __add__(self, other: NoisyGram) -> NoisyGram:
        check_fits(self, other)
        if self.scale is not None and max(self._largest, other._largest) > LARGEST:
            raise BadInput(WRAPS)
        return NoisyGram(
            self.gram + other.gram,
            self.cross + other.cross,
            self.scale,
            self.gram_variance + other.gram_variance,
            self.cross_variance + other.cross_variance,
        )

    @cached_property
    def _largest(self) -> float:
        return max(float(part.abs().max()) for part in (self.gram, self.cross))

    @property
    def noise_ridge(self) -> float:
        """G = s sqrt(2 d), about the largest eigenvalue of the noise on G."""
        return math.sqrt(2 * self.num_features * self.gram_variance)

    def solution(self, ridge: float | str = "noise") -> Solution:
        """Return the head of the positive part of G~.

        Args:
            ridge: Ridge g >= 0, or 'noise' for `noise_ridge`. It must not be chosen by looking at the samples.

        Raises:
            BadInput: The ridge is neither, or nothing of G~ is positive.
        """
        d = self.num_features
        check_memory(4 * 8 * d * d, f"solving for {d} features", "project the features to fewer")
        remedy = "or say 'noise'; 'gcv' counts samples, which is a release"
        g = self.noise_ridge if ridge == "noise" else checks.number("ridge", ridge, least=0, remedy=remedy)
        plain = self.real()
        gram, cross = plain.gram.cpu(), plain.cross.cpu()
        check_finite(gram, cross)
        with one_thread():
            values, vectors = torch.linalg.eigh(gram)
            system = values.clamp(min=0) + g
            kept = system > system.abs().max() * d * np.finfo(np.float64).eps
            if not bool(kept.any()):
                raise BadInput("the noisy statistics hold nothing positive: raise epsilon, or add samples")
            weight = vectors[:, kept] @ ((vectors[:, kept].T @ cross) / system[kept, None])
        condition = float(system[kept].max() / system[kept].min())
        return Solution(weight, float(g), condition, int(kept.sum()))

    def solve(self, ridge: float | str = "noise") -> Float64[Tensor, "d c"]:
        """Return the weight of `solution`."""
        return self.solution(ridge).weight
