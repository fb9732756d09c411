"""A closed-form learner: reduce the local samples to ridge statistics; sums of them become a head.

    observe(X, Y) = (G, C, n)       fit = solve       scores(h) = h W,  h = expansion(X)

Every analytic method is this value; what differs is which features enter the sum and how the sum becomes a
head. n samples, d0 backbone features, d features after the expansion, c classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedlab import checks
from fedlab.analytic.expansion import Expansion, Identity, RandomReLU
from fedlab.errors import BadInput
from fedlab.method import Learner
from fedlab.stats.arithmetic.fixed_point import FixedPoint
from fedlab.stats.arithmetic.memory import check_memory
from fedlab.stats.arithmetic.samples import check_features, check_labels, one_hot
from fedlab.stats.class_weights import ClassWeights
from fedlab.stats.gram import GramStats
from fedlab.stats.gram_sum import GramSum
from fedlab.stats.serialization.packed_size import HEADER, packed_bytes
from fedlab.stats.serialization.wire import pack
from fedlab.stats.total import total_of

ROWS = 4096
"""Samples expanded at a time: memory stays O(ROWS d) however many samples a client has."""
SYSTEMS = 5
"""Matrices of d x d at a solve: the sum before and after a phase, in float64, the system, its factor."""
EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Analytic(Learner):
    """What a client does with its samples, and whoever holds a sum with that sum.

    Args:
        num_classes: Number of classes c, known to everyone; a class that a client does not hold is a zero column.
        expansion: Map from backbone features to the features that are summed.
        mode: Number mode: 'exact' for fixed-point integers (bit-identical for every partition) or 'float64'.
        limit: Public range of the backbone's features (exact mode).
        bits: Word length of the features (exact mode).
        min_samples: Samples below which a client answers as one that has none: its silence says no more than that. 0
            is off.
    """

    num_classes: int
    expansion: Expansion = field(default_factory=Identity)
    mode: str = "exact"
    limit: float = 1.0
    bits: int = 12
    min_samples: int = field(default=0, repr=False)  # it changes no head, so a saved head does not name it

    def __post_init__(self) -> None:
        checks.choice("mode", self.mode, ("exact", "float64"))
        checks.integer("num_classes", self.num_classes, least=1)
        checks.integer("min_samples", self.min_samples, least=0, remedy="0 lets every client answer")
        self.fixed  # noqa: B018 - refuses a bad limit or word length here rather than at the first sample

    @property
    def fixed(self) -> FixedPoint:
        """How backbone features become integers."""
        return FixedPoint(self.limit, self.bits)

    # -- learner ---------------------------------------------------------------------------------------------

    def observe(self, x: Tensor, labels: Tensor, weights: ClassWeights | None = None) -> Any:
        """Return the statistics of these samples; nothing is remembered.

        Args:
            x: Backbone features, (n, d0). n = 0 is legal.
            labels: Classes, (n,), in [0, c).
            weights: Weights of the classes; None counts every sample once.

        Raises:
            BadInput: A feature is NaN or infinite, a label out of range, a class without a weight, there is not one
                label per sample, or the features' sums would not fit into memory.
        """
        return self.observe_sums(x, labels, weights)

    def observe_sums(self, x: Tensor, labels: Tensor, weights: ClassWeights | None = None) -> GramStats:
        """Return the ridge statistics of these samples, whatever else a method observes."""
        self.check(x, labels)
        y = one_hot(labels, self.num_classes)
        if weights is not None:
            weights.check(y.sum(0).to(torch.int64))
            if self.mode == "exact" and not weights.plain:
                # Rows of like weight share a product: the batches go from light classes to heavy ones.
                order = weights.factors(exact=True).to(x.device)[labels].argsort(stable=True)
                x, y = x[order], y.to(x.device)[order]
        batches = zip(x.split(ROWS), y.split(ROWS), strict=True)
        return total_of(self._reduce(part, target, weights) for part, target in batches)

    def check(self, x: Tensor, labels: Tensor) -> None:
        """Refuse what cannot be summed, before anything is."""
        check_features(x)
        check_labels(labels, self.num_classes, len(x))
        d = self.expansion.out_features(x.shape[1])
        need = 8 * d * (min(len(x), ROWS) + 2 * x.shape[1] + (2 * d if len(x) > d else 0))
        check_memory(need, f"the sums of {d} features", "lower the expansion's width")

    def estimate_memory(self, counts: Sequence[int], d0: int) -> str | None:
        """Say what the server will need for so many samples, before anything is taken; None where it is little.

        Args:
            counts: Samples n_y per class, of everybody, at the end.
            d0: Backbone features.

        Raises:
            BadInput: The system that is to be solved would not fit into memory.
        """
        d = self.expansion.out_features(d0)
        check_memory(SYSTEMS * 8 * d * d, f"the system of {d} features", "lower the expansion's width")
        return None

    def _reduce(self, x: Tensor, y: Tensor, weights: ClassWeights | None = None) -> GramStats:
        h, scale, saturated = self.expand(x)
        return GramStats.from_integers(h, y, scale, saturated, weights)

    def expand(self, x: Tensor) -> tuple[Float64[Tensor, "n d"], float | None, int]:
        """Return the features that are summed, their scale in exact mode, and how many entries were clipped."""
        if self.mode == "float64":
            return self.expansion(x.to(torch.float64, copy=True)), None, 0
        q, saturated = self.fixed.encode(x)
        h, fixed, clipped = self.expansion.integers(q, self.fixed)
        return h, fixed.scale, saturated + clipped

    def fit(self, statistics: Any, ridge: float | str = 1.0) -> Float64[Tensor, "d c"]:
        """Return the head."""
        return statistics.solve(ridge)

    # -- what the apps call ----------------------------------------------------------------------------------

    def train(
        self, arrays: Mapping[str, np.ndarray], config: Mapping[str, object], x: Tensor, labels: Tensor, seed: int
    ) -> tuple[dict[str, np.ndarray], dict[str, int | float]]:
        """Return the packed statistics; model, config and seed do not matter."""
        x, labels, _ = self.admit(x, labels, [len(x)])
        return pack(self.observe(x, labels)), {}

    def admit(self, x: Tensor, labels: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor, Sequence[int]]:
        """Return what is left of clients' samples, which are those of `train_in_total`, under `min_samples`.

        Raises:
            BadInput: As `observe` does, also for samples that are left out.
        """
        if all(n == 0 or n >= self.min_samples for n in sizes):
            return x, labels, sizes
        self.check(x, labels)
        admitted = [n if n >= self.min_samples else 0 for n in sizes]
        owners = torch.tensor(sizes, device=x.device)
        kept = (owners >= self.min_samples).repeat_interleave(owners)
        return x[kept], labels[kept], admitted

    def train_in_total(
        self,
        x: Tensor,
        labels: Tensor,
        sizes: Sequence[int],
        arrays: Mapping[str, np.ndarray] = EMPTY,
        config: Mapping[str, object] = EMPTY,
    ) -> tuple[dict[str, np.ndarray], int] | None:
        """Return the packed sum of what `train` answers for many clients, and the bytes of all those answers.

        The sum of the clients' products is the product of their stacked rows: one client's work, whatever k. None
        where each must answer by itself.

        Args:
            x, labels: Samples of all, client after client: (n, d0) and (n,).
            sizes: Samples per client; their sum is n.
            arrays, config: Model and config that every client received.
        """
        total, num_bytes = self.sum_clients(x, labels, sizes)
        return pack(total), num_bytes

    def sum_clients(
        self, x: Tensor, labels: Tensor, sizes: Sequence[int], weights: ClassWeights | None = None
    ) -> tuple[GramStats, int]:
        """Return the sum over many clients, and the bytes of their packed statistics."""
        x, labels, sizes = self.admit(x, labels, sizes)
        self.check(x, labels)
        if weights is not None:
            weights.check(torch.bincount(labels, minlength=self.num_classes))
        total, num_bytes, start = GramSum(), 0, 0
        by_class = self.mode == "exact" and weights is not None and not weights.plain
        if by_class:  # all together: fewer products than client after client
            total.add(self.observe_sums(x, labels, weights))
        for group in groups(sizes):
            end = start + sum(group)
            part, target = x[start:end], labels[start:end]
            if end - start > ROWS:  # one large client
                statistics = self.observe_sums(part, target, weights)
                num_bytes += sum(array.nbytes + HEADER for array in pack(statistics).values())
            else:
                h, scale, saturated = self.expand(part)
                rows, classes = h.cpu().numpy(), target.cpu().numpy().astype(np.int64)
                num_bytes += packed_bytes(rows, classes, group, self.num_classes, scale is not None, weights)
                y = one_hot(target, self.num_classes)
                statistics = None if by_class else GramStats.from_integers(h, y, scale, saturated, weights)
            if statistics is not None and not by_class:
                total.add(statistics)
            start = end
        return total.result(), num_bytes

    def features(self, x: Tensor) -> Float64[Tensor, "n d"]:
        """Return what the head multiplies: the same numbers that were summed, and never clipped as under privacy."""
        check_features(x)
        h, scale, _ = Analytic.expand(self, x)
        return h if scale is None else h / scale

    def scores(self, arrays: Mapping[str, np.ndarray], h: Tensor) -> Float64[Tensor, "n c"]:
        """Return h W."""
        return h @ torch.tensor(arrays["weight"], device=h.device)

    def predict_scores(self, weight: Float64[Tensor, "d c"], x: Tensor) -> Float64[Tensor, "n c"]:
        """Return h W for backbone features."""
        return torch.cat([self.features(part) @ weight.to(x.device) for part in x.split(ROWS)])

    def predict(self, weight: Float64[Tensor, "d c"], x: Tensor) -> Int64[Tensor, " n"]:
        """Return the class of the largest score."""
        return self.predict_scores(weight, x).argmax(1)

    # -- keeping ---------------------------------------------------------------------------------------------

    def save(self, path: Path | str, weight: Float64[Tensor, "d c"]) -> None:
        """Write a head as safetensors, with the settings of the learner that it belongs to."""
        save_file({"weight": weight.cpu().contiguous()}, path, metadata={"learner": repr(self)})

    def load(self, path: Path | str) -> Float64[Tensor, "d c"]:
        """Return a head that `save` wrote.

        Raises:
            BadInput: The file is none, or its head belongs to a learner with other settings.
        """
        try:
            with safe_open(path, framework="pt") as file:
                owner, weight = (file.metadata() or {}).get("learner"), file.get_tensor("weight")
        except (OSError, SafetensorError) as error:
            raise BadInput(f"{path} cannot be read as a head: {error}") from error
        if owner != repr(self):
            raise BadInput(f"{path} holds a head of {owner}, and this is {self!r}: use the same settings")
        return weight


@dataclass(frozen=True)
class ContinualLearner(Analytic):
    """An analytic learner of a stream, with the random features and the ridge of the papers."""

    expansion: Expansion = field(default_factory=RandomReLU)

    def fit(self, statistics: Any, ridge: float | str = 0.1) -> Float64[Tensor, "d c"]:
        """Return the head over everything that was observed."""
        return statistics.solve(ridge)


def groups(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Yield the sizes, in their order, cut into groups of at most ROWS together; a larger one is alone."""
    group: list[int] = []
    for n in sizes:
        if group and sum(group) + n > ROWS:
            yield group
            group = []
        group.append(n)
    if group:
        yield group
