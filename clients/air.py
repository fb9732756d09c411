"""AIR's client: class-incremental learning of long-tailed streams, every class weighted alike.

    min_W  sum_y p_y |Y_y - h_y W|^2 + g |W|^2         W = (sum_y p_y G_y + g I)^-1 sum_y p_y C_y

p_y is proportional to n_y^-tau with mean 1 over the seen classes: tau = 1 is the paper, tau = 0 is ACIL. The
weights follow from everyone's counts, so a client cannot know them when it observes. Two forms give the same
head: `per_class` sends G_y class by class, and whoever holds their sum can weight them anew whenever a class
returns; `two_rounds` sends the counts first and then one sum that is weighted already, d^2 numbers only, for
which clients keep what they have of earlier tasks.

Fang et al., AIR: Analytic Imbalance Rectifier for Continual Learning, 2024, https://arxiv.org/abs/2408.10349.
n_y samples of class y, h = relu(x B) (n, d), G_y = h_y'h_y, C_y = h_y'Y_y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab import checks
from fedlab.analytic import Analytic, ContinualLearner
from fedlab.analytic.learner import EMPTY, SYSTEMS, groups
from fedlab.errors import BadInput
from fedlab.method import Answer, Arrays, Config
from fedlab.stats import ClassCounts, ClassWeights, GramStats, PerClass, pack, packed_bytes, total_of
from fedlab.stats.arithmetic.memory import check_memory, human
from fedlab.stats.class_weights import check_tau
from fedlab.stats.per_class import REMEDY, check_per_class, per_class_bytes
from fedlab.stats.serialization.packed_size import HEADER

FORMS = ("per_class", "two_rounds")


@dataclass(frozen=True)
class AIR(ContinualLearner):
    """The analytic learner that rectifies imbalance.

    Args:
        tau: Tempering: 0 weights every sample alike, 1 every class.
        form: Form of the answers: 'per_class' or 'two_rounds'.
        memory: Largest number of bytes that sums class by class may hold; None for a share of what is available.
        num_classes, expansion, mode, limit, bits, min_samples: As `Analytic` has them.
    """

    tau: float = 1.0
    form: str = "per_class"
    memory: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tau(self.tau)
        checks.choice("form", self.form, FORMS)

    def observe(
        self, x: Tensor, labels: Tensor, weights: ClassWeights | None = None
    ) -> PerClass | ClassCounts | GramStats:
        """Return what these samples add to the sum.

        Args:
            x, labels: As `Analytic` has them.
            weights: Weights, which all clients' counts decided; with them the answer is one weighted sum.
        """
        if weights is not None:
            return self.observe_sums(x, labels, weights)
        self.check(x, labels)
        if self.form == "two_rounds":
            return ClassCounts(torch.bincount(labels.cpu().long(), minlength=self.num_classes))
        d = self.expansion.out_features(x.shape[1])
        check_per_class(torch.bincount(labels.long()).tolist(), d, self.memory)
        one = Analytic(1, self.expansion, self.mode, self.limit, self.bits)
        parts = [self._nothing(x, one)]
        for y in labels.unique().tolist():
            here = x[labels == y]
            stats = one.observe_sums(here, torch.zeros(len(here), dtype=torch.int64, device=x.device))
            parts.append(PerClass.of_class(stats, y, self.num_classes, self.memory))
        return total_of(parts)

    def _nothing(self, x: Tensor, one: Analytic) -> PerClass:
        stats = one.observe_sums(x[:0], torch.zeros(0, dtype=torch.int64, device=x.device))
        return PerClass.of_class(stats, 0, self.num_classes, self.memory)

    def fit(self, statistics: PerClass | GramStats, ridge: float | str = 0.1) -> Float64[Tensor, "d c"]:
        """Return the head; sums of the second round are weighted already."""
        if isinstance(statistics, GramStats):
            return statistics.solve(ridge)
        return statistics.tempered(self.tau).solve(ridge)

    def train(self, arrays: Arrays, config: Config, x: Tensor, labels: Tensor, seed: int) -> Answer:
        """Return packed statistics; in the second round `class-weights` in the config are c numbers."""
        x, labels, _ = self.admit(x, labels, [len(x)])
        return pack(self.observe(x, labels, self._weights(config))), {}

    def train_in_total(
        self, x: Tensor, labels: Tensor, sizes: Sequence[int], arrays: Arrays = EMPTY, config: Config = EMPTY
    ) -> tuple[dict[str, np.ndarray], int]:
        """Return the packed sum of what `train` answers for many clients, and the bytes of all those answers."""
        weights = self._weights(config)
        if weights is not None:
            total, num_bytes = self.sum_clients(x, labels, sizes, weights)
            return pack(total), num_bytes
        x, labels, sizes = self.admit(x, labels, sizes)
        total = self.observe(x, labels)
        return pack(total), self._bytes(x, labels, sizes)

    def _bytes(self, x: Tensor, labels: Tensor, sizes: Sequence[int]) -> int:
        """Return what the clients' answers weigh together."""
        c, owner = self.num_classes, np.repeat(np.arange(len(sizes)), sizes)
        key = owner * c + labels.cpu().numpy()
        pairs, counts = np.unique(key, return_counts=True)
        if self.form == "two_rounds":
            largest = np.zeros(len(sizes))
            np.maximum.at(largest, pairs // c, counts)
            widths = 1 << np.searchsorted([2.0**7, 2.0**15, 2.0**31], largest, side="right")
            return int(len(sizes) * (2 * HEADER + 8) + c * widths.sum())
        total = len(sizes) * (3 * HEADER + 8 + 3 * 8 + 8)
        order = np.argsort(key, kind="stable")
        start = 0
        for group in groups(counts.tolist()):  # each class of each client is packed by itself
            rows = torch.from_numpy(order[start : start + sum(group)]).to(x.device)
            h, scale, _ = self.expand(x[rows])
            alike = np.zeros(len(rows), dtype=np.int64)
            total += packed_bytes(h.cpu().numpy(), alike, group, 1, scale is not None)
            start += sum(group)
        return total

    def _weights(self, config: Config) -> ClassWeights | None:
        if "class-weights" not in config:
            return None
        values = np.asarray(config["class-weights"], dtype=np.float64)
        if values.shape != (self.num_classes,):
            raise BadInput(f"class-weights have shape {values.shape}: expected ({self.num_classes},)")
        return ClassWeights(tuple(values.tolist()))

    def estimate_memory(self, counts: Sequence[int], d0: int) -> str | None:
        """Say what sums class by class will take, and refuse what would not fit."""
        super().estimate_memory(counts, d0)
        if self.form == "two_rounds":
            return None
        d = self.expansion.out_features(d0)
        check_per_class(counts, d, self.memory)
        need, seen = per_class_bytes(counts, d), sum(map(bool, counts))
        check_memory(2 * need + SYSTEMS * 8 * d * d, "sums class by class, before and after a phase,", REMEDY)
        return f"sums class by class: {seen} classes by {d} features will take {human(need)}"
