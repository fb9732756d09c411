"""The guarantee of one release of ridge statistics, about whom it is, and the noise that keeps it.

    s = m Delta           m the Gaussian's multiplier for (epsilon, delta), Delta the sensitivity of (G, C)

    central       the server adds s once; it is trusted with the sums
    local         every client adds s itself; the sum of k has s sqrt(k)
    distributed   every client adds integers of variance s^2 / h; worth nothing without secure aggregation

With `gram_share` u, add or remove only, G and C have noise of their own: B^4/s_G^2 + B^2/s_C^2 = 1/m^2 with
B^4/s_G^2 = u/m^2. The mechanisms are in `clip_and_noise` and `skellam`, what has been spent is in `ledger`.

B the largest norm of a row (S of a client's whole statistics), k clients, h of whom at least are in the sum and keep
their own noise to themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.privacy.accounting.budget import PrivacyBudget
from fedlab.privacy.mechanisms import skellam
from fedlab.privacy.mechanisms.gaussian import multiplier
from fedlab.privacy.mechanisms.sensitivity import check_bound, client_sensitivity, cross_sensitivity, joint_sensitivity
from fedlab.privacy.mechanisms.skellam import Block, Shift
from fedlab.privacy.ridge.clip_and_noise import clip_rows, clip_statistics, symmetric_gaussian
from fedlab.stats import NoisyGram
from fedlab.stats.arithmetic.triangle import triangle_entries, unflatten

TRUST = ("central", "local", "distributed")
SHARE = "a share of the clients, e.g. 0.1"


@dataclass(frozen=True)
class Guarantee:
    """(epsilon, delta) for one release of ridge statistics.

    Args:
        epsilon, delta: Budget of one release.
        clip: Largest norm B of a row of features, or with `unit='client'` of a client's whole statistics.
        trust: Who is trusted with what: 'central', 'local' or 'distributed'.
        unit: Unit whose presence is hidden: one 'sample', or one 'client' with all it has.
        relation: Relation of neighbours: 'add_remove' or 'replace_one'.
        gram_share: Share u in (0, 1) of the budget that G takes; None noises G and C alike.
        dropout, colluding: Shares of the clients that may drop out, and that may tell the server their noise
            (distributed).
        cap: Epsilon that all releases together may spend; None for this one's.

    Raises:
        BadInput: A value is out of range, or two do not go together.
    """

    epsilon: float = 1.0
    delta: float = 1e-5
    clip: float = 1.0
    trust: str = "central"
    unit: str = "sample"
    relation: str = "add_remove"
    gram_share: float | None = None
    dropout: float = 0.1
    colluding: float = 0.1
    cap: float | None = None

    def __post_init__(self) -> None:
        PrivacyBudget(self.epsilon, self.delta, self.unit, self.relation)  # which refuses what is none
        check_bound("clip", self.clip)
        checks.choice("trust", self.trust, TRUST)
        for name in ("dropout", "colluding"):
            checks.number(name, getattr(self, name), least=0, below=1, remedy=SHARE)
        if self.dropout + self.colluding >= 1:
            raise BadInput(
                f"dropout={self.dropout} and colluding={self.colluding} leave no client to hide behind: lower them"
            )
        if self.cap is not None:
            checks.number("cap", self.cap, above=0, remedy="or null for the epsilon of one release")
        if self.gram_share is None:
            return
        checks.number("gram_share", self.gram_share, above=0, below=1, remedy="or null for noise alike")
        if (self.relation, self.unit) != ("add_remove", "sample") or self.trust == "distributed":
            raise BadInput(
                f"gram_share={self.gram_share} is proved for adding or removing one sample under Gaussian noise: "
                f"with relation={self.relation} unit={self.unit} trust={self.trust} leave it null"
            )

    @property
    def budget(self) -> PrivacyBudget:
        """The terms of the ledger that its releases are entered in."""
        return PrivacyBudget(self.cap or self.epsilon, self.delta, self.unit, self.relation)

    @cached_property
    def sensitivity(self) -> float:
        """Delta of (G, C), in units of the features."""
        if self.unit == "client":
            return client_sensitivity(self.clip, self.relation)
        return joint_sensitivity(self.clip, relation=self.relation)

    @cached_property
    def noise_multiplier(self) -> float:
        """Noise multiplier m of the Gaussian mechanism."""
        return multiplier(self.epsilon, self.delta)

    @cached_property
    def deviations(self) -> tuple[float, float]:
        """s_G and s_C of one release of Gaussian noise, in units of the features."""
        m, u = self.noise_multiplier, self.gram_share
        if u is None:
            return m * self.sensitivity, m * self.sensitivity
        return m * self.clip**2 / math.sqrt(u), m * self.clip / math.sqrt(1 - u)

    # -- clipping ----------------------------------------------------------------------------------------------

    def clip_features(self, x: Tensor, scale: float | None) -> Tensor:
        """Return rows that are clipped where the unit is a sample, and as they are where it is a client."""
        return clip_rows(x, self.clip, scale) if self.unit == "sample" else x

    def contribution(self, statistics: NoisyGram) -> NoisyGram:
        """Return a client's sums, clipped where the unit is a client; those of clipped rows already are."""
        return clip_statistics(statistics, self.clip) if self.unit == "client" else statistics

    # -- noise -------------------------------------------------------------------------------------------------

    def noised(self, sums: NoisyGram, rng: np.random.Generator) -> NoisyGram:
        """Return sums with the noise of one whole release: what a trusted server, or a client alone, lets go."""
        return symmetric_gaussian(sums, *self.deviations, rng)

    def noised_cross(self, sums: NoisyGram, public_gram: Tensor, rng: np.random.Generator) -> NoisyGram:
        """Return C with noise beside a Gram of public rows: G is not released, so C may have all of the budget.

        Args:
            sums: Sums whose C is released; G is not looked at.
            public_gram: Gram of rows that anybody may see, (d, d).
            rng: Random numbers of the noise.

        Raises:
            BadInput: The unit is a client: what one has is clipped as a whole, G and C together.
        """
        if self.unit == "client":
            raise BadInput("a public Gram with unit=client: clip rows, say unit=sample")
        s = self.noise_multiplier * cross_sensitivity(self.clip, relation=self.relation)
        alone = NoisyGram(torch.zeros_like(public_gram), sums.real().cross)
        noisy = symmetric_gaussian(alone, 0.0, s, rng)
        return NoisyGram(public_gram, noisy.cross, None, 0.0, noisy.cross_variance)

    def share(self, sums: NoisyGram, num_clients: int, rng: np.random.Generator) -> NoisyGram:
        """Return a client's integers with its share of the noise; by itself it hides little.

        Args:
            sums: Sums of one client, exact.
            num_clients: Number of clients k, of whom at least `needed` must be in the sum.
            rng: Random numbers of the client's own.

        Raises:
            BadInput: The sums are no integers, or a share is too small or too large for integers.
        """
        if sums.scale is None:
            raise BadInput("trust=distributed masks integers: it needs mode=exact")
        d, c, scale = sums.num_features, sums.num_classes, sums.scale
        gram, cross = self.variances(d, c, scale)
        h = self.honest(num_clients)
        # Half of the variance beside the diagonal, as in the Gaussian case: there every entry stands twice.
        draws = skellam.skellam(gram / (2 * h), (triangle_entries(d),), rng)
        noise = unflatten(draws, d, d, np.int64)
        diagonal = np.diag_indices(d)
        noise[diagonal] += skellam.skellam(gram / (2 * h), (d,), rng)
        noise += np.triu(noise, 1).T
        beside = skellam.skellam(cross / h, (d, c), rng)
        return NoisyGram(
            sums.gram + torch.from_numpy(noise),
            sums.cross + torch.from_numpy(beside),
            scale,
            gram / h / scale**4,
            cross / h / scale**2,
        )

    def needed(self, num_clients: int) -> int:
        """Return how many of k clients must be in the sum for it to carry the whole noise."""
        return num_clients - math.floor(self.dropout * num_clients + 1e-9)

    def honest(self, num_clients: int) -> int:
        """Return h, how many of these at least tell nobody their noise."""
        return max(1, self.needed(num_clients) - math.floor(self.colluding * num_clients + 1e-9))

    def variances(self, d: int, c: int, scale: float) -> tuple[float, float]:
        """Return the Skellam variances of G's diagonal and of C in the whole sum, in integer units.

        Calibrated by the Renyi bound, which takes some 8 % more than a Gaussian.
        """
        return _variances(self.epsilon, self.delta, self.sensitivity, d, c, scale)


@lru_cache(maxsize=64)
def _variances(epsilon: float, delta: float, sensitivity: float, d: int, c: int, scale: float) -> tuple[float, float]:
    """Return mu_G and mu_C = mu_G / scale^2 of `Guarantee.variances`."""
    # In real units the noise has variance 1 before calibration, so sum v_i^2/mu_i = Delta^2 however it is split
    # between G and C. The rest is bounded as if each had all of it; beside G's diagonal the variance is half.
    gram, cross = sensitivity * scale**2, sensitivity * scale
    shift = Shift(
        sensitivity**2,
        [
            Block(gram, gram * math.sqrt(triangle_entries(d)), scale**4 / 2),
            Block(cross, cross * math.sqrt(d * c), scale**2),
        ],
    )
    factor = skellam.calibrated(epsilon, delta, shift)
    return factor * scale**4, factor * scale**2
