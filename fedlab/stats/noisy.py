"""Ridge statistics that carry noise, and nothing that does not.

    G~ = G + (Z + Z')/2,   C~ = C + N        W = (P(G~) + g I)^-1 C~,    P sets negative eigenvalues to zero

Counts, class counts and saturation are data too: they are not here, so that they cannot be released by mistake.
P and the ridge are free, for they look at what is released already; they matter more than a factor in epsilon.
Below the noise's own spectral norm, about s sqrt(2 d), a direction of G~ tells nothing, and that is the ridge.

Before noise is added, and under secure aggregation, entries are exact integers; with Gaussian noise they are
float64 in the units of the features. d features, c classes, s the noise's standard deviation on G's diagonal.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab.errors import BadInput
from fedlab.stats.arithmetic.memory import check_memory
from fedlab.stats.arithmetic.solve import Solution, check_finite, one_thread
from fedlab.stats.gram import GramStats
from fedlab.stats.serialization.packing import expect, flatten, triangle_entries, unflatten

PARTS = ("shape", "scale", "variance", "gram", "cross")
"""Names of the packed arrays. Their sizes and types follow from d, c and the mode alone, and so tell nothing."""

LARGEST = 2.0**62
"""An entry up to which two integers can be added."""


@dataclass(frozen=True, eq=False)
class NoisyGram:
    """Sums over samples that nobody counted.

    Attributes
    ----------
    gram
        G~, (d, d), symmetric: int64, or float64 in the units of the features.
    cross
        C~, (d, c), of the same type.
    scale
        Integer units per 1.0 of a feature; None in float64.
    gram_variance, cross_variance
        Of the noise on G's diagonal (half of it beside the diagonal) and on C's entries, in units of the features;
        0 where there is none yet.
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
        digest = hashlib.sha256(
            repr((self.num_features, self.num_classes, self.scale, self._variance)).encode()
        )
        for part in (flatten(self.gram.cpu().numpy()), self.cross.cpu().contiguous().numpy()):
            digest.update(part.tobytes())
        return digest.hexdigest()

    @property
    def _variance(self) -> tuple[float, float]:
        return self.gram_variance, self.cross_variance

    def real(self) -> NoisyGram:
        """Return the same sums as float64, in the units of the features."""
        if self.scale is None:
            return self
        unit = self.scale**2  # targets are ones: C carries one scale, G two
        return NoisyGram(
            self.gram.to(torch.float64) / unit,
            self.cross.to(torch.float64) / self.scale,
            None,
            *self._variance,
        )

    def __add__(self, other: NoisyGram) -> NoisyGram:
        if self.cross.shape != other.cross.shape or self.scale != other.scale:
            raise BadInput(
                f"cannot combine noisy statistics of {tuple(self.cross.shape)} at scale {self.scale} with "
                f"{tuple(other.cross.shape)} at scale {other.scale}: every client must use the same settings"
            )
        if self.scale is not None and max(self._largest, other._largest) > LARGEST:
            raise BadInput("the sum of exact statistics passes 2^63: lower bits, or add fewer samples")
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

        Parameters
        ----------
        ridge
            g >= 0, or 'noise' for `noise_ridge`. It must not be chosen by looking at the samples.

        Raises
        ------
        BadInput
            The ridge is neither, or nothing of G~ is positive.
        """
        d = self.num_features
        check_memory(4 * 8 * d * d, f"solving for {d} features", "project the features to fewer")
        g = self.noise_ridge if ridge == "noise" else ridge
        if isinstance(g, str) or not (math.isfinite(g) and g >= 0):
            raise BadInput(
                f"ridge={ridge!r} is neither a number >= 0 nor 'noise': 'gcv' counts samples, which is a release"
            )
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


def pack_noisy(statistics: NoisyGram) -> dict[str, np.ndarray]:
    """Return noisy statistics as named flat arrays, whose sizes and types tell nothing of the samples."""
    return {
        "shape": np.array([statistics.num_features, statistics.num_classes], dtype=np.int64),
        "scale": np.array([statistics.scale or 0.0]),
        "variance": np.array([statistics.gram_variance, statistics.cross_variance]),
        "gram": flatten(statistics.gram.cpu().numpy()),
        "cross": statistics.cross.cpu().numpy().reshape(-1),
    }


def unpack_noisy(arrays: Mapping[str, np.ndarray]) -> NoisyGram:
    """Return what `pack_noisy` packed.

    Raises
    ------
    BadInput
        A part is missing, has the wrong size or type, or holds NaN or infinite numbers.
    """
    lacking = [name for name in PARTS if name not in arrays]
    if lacking:
        raise BadInput(f"packed noisy statistics lack {', '.join(lacking)}")
    expect("shape", arrays["shape"], 2, "i")
    expect("scale", arrays["scale"], 1)
    expect("variance", arrays["variance"], 2)
    d, c = (int(v) for v in arrays["shape"])
    scale, variance = float(arrays["scale"][0]), [float(v) for v in arrays["variance"]]
    if min(d, c) < 1 or scale < 0 or min(variance) < 0:
        raise BadInput(
            f"packed noisy statistics name {d} features, {c} classes, scale {scale} and variances {variance}: "
            "they cannot be"
        )
    kinds, kind = ("i", np.int64) if scale else ("f", np.float64)
    expect("gram", arrays["gram"], triangle_entries(d), kinds)
    expect("cross", arrays["cross"], d * c, kinds)
    gram = unflatten(arrays["gram"], d, d, kind)
    gram += np.triu(gram, 1).T
    cross = arrays["cross"].reshape(d, c).astype(kind)
    return NoisyGram(torch.from_numpy(gram), torch.from_numpy(cross), scale or None, *variance)
