"""AFL's client under differential privacy: clipped rows, sums without counts, noise where nobody is trusted.

    observe(X, Y) = (sum_i x_i x_i', sum_i x_i y_i')       |x_i| <= B       no count, no class count, no saturation

    central       the sums as they are, for a server that is trusted with them
    local         the sums with the noise of a whole release
    distributed   integers with a share of the noise, to be masked (`clients.secagg`)

He et al., AFL, CVPR 2025, https://arxiv.org/abs/2405.16240; noise on sufficient statistics: Sheffet 2017,
https://arxiv.org/abs/1507.02482. d features, c classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from fedlab.analytic import Analytic
from fedlab.analytic.learner import EMPTY
from fedlab.errors import BadInput
from fedlab.method import Answer, Arrays, Config
from fedlab.privacy.mechanisms.noise_source import check_entropy, noise
from fedlab.privacy.ridge.guarantee import Guarantee
from fedlab.stats import NoisyGram, pack
from fedlab.stats.class_weights import ClassWeights
from fedlab.stats.serialization.packed_size import HEADER


@dataclass(frozen=True)
class DPAFL(Analytic):
    """The analytic learner of one noisy release.

    Args:
        guarantee: Guarantee that is promised; the rows are clipped to its `clip`, in units of the expanded features.
        clients: Number k of clients, over whom the noise is shared under distributed trust.
        entropy: Source of the noise: 'seeded' for noise that the run's seed repeats, 'os' for noise that nobody can.
    """

    guarantee: Guarantee = field(default_factory=Guarantee)
    clients: int | None = None
    entropy: str = "seeded"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_entropy(self.entropy)
        if self.guarantee.trust == "distributed" and self.mode != "exact":
            raise BadInput(f"trust=distributed masks integers: mode={self.mode} has none, say mode=exact")
        if self.min_samples and self.guarantee.unit == "sample":
            raise BadInput(
                f"min_samples={self.min_samples} with unit=sample: one sample more would let a client's others in, "
                "which the noise does not cover; say min_samples=0, or unit=client"
            )
        if self.guarantee.trust == "distributed" and not self.clients:
            raise BadInput("trust=distributed shares noise over the clients: say how many, e.g. clients=100")

    def expand(self, x: Tensor) -> tuple[Tensor, float | None, int]:
        """Return clipped features: rounded first, so that no norm passes the bound."""
        h, scale, saturated = super().expand(x)
        return self.guarantee.clip_features(h, scale), scale, saturated

    def observe(self, x: Tensor, labels: Tensor, weights: ClassWeights | None = None) -> NoisyGram:
        """Return the sums of these samples, clipped, before any noise."""
        if weights is not None:
            raise BadInput("weights under differential privacy: a weight changes the sensitivity; leave them out")
        return self.guarantee.contribution(NoisyGram.without_counts(self.observe_sums(x, labels)))

    def fit(self, statistics: Any, ridge: float | str = "noise") -> Tensor:
        """Return the head."""
        return statistics.solve(ridge)

    def train(self, arrays: Arrays, config: Config, x: Tensor, labels: Tensor, seed: int) -> Answer:
        """Return what may leave the client, and no metric."""
        x, labels, _ = self.admit(x, labels, [len(x)])
        sums = self.observe(x, labels)
        if self.guarantee.trust == "local":
            sums = self.guarantee.noised(sums, noise(self.entropy, seed, f"local noise {self._draw(sums)}"))
        elif self.guarantee.trust == "distributed":
            rng = noise(self.entropy, seed, f"share of noise {self._draw(sums)}")
            sums = self.guarantee.share(sums, self.clients or 1, rng)
        return pack(sums), {}

    def _draw(self, sums: NoisyGram) -> str:
        """Name what is noised and how: other sums or another promise take other noise."""
        return f"of {sums.sha256} under {self.guarantee}"

    def train_in_total(
        self, x: Tensor, labels: Tensor, sizes: Sequence[int], arrays: Arrays = EMPTY, config: Config = EMPTY
    ) -> tuple[dict[str, np.ndarray], int] | None:
        """Return the sum of what `train` answers, and its bytes; None where each client noises or clips its own."""
        if self.guarantee.trust != "central" or self.guarantee.unit == "client":
            return None
        total, _ = self.sum_clients(x, labels, sizes)
        packed = pack(NoisyGram.without_counts(total))
        return packed, len(sizes) * sum(array.nbytes + HEADER for array in packed.values())
