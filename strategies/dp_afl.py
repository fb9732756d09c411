"""AFL under differential privacy: one round, one release of noisy statistics, one solve.

    W = (P(G + noise) + g I)^-1 (C + noise)        P the positive part, g = s sqrt(2 d) the noise's own norm

Who adds the noise depends on who is trusted: the server once (central), every client (local), or every client a
share of it under secure aggregation (distributed). Nothing but the noisy sums enters the model or the report.

He et al., AFL, CVPR 2025, https://arxiv.org/abs/2405.16240; the mechanism: `fedlab.privacy.ridge.clip_and_noise`.
d features, s the noise's standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fedlab.engine.aggregation.closed_form import ClosedForm
from fedlab.engine.aggregation.private import Private
from fedlab.engine.aggregation.strategy import Messages
from fedlab.engine.messages.partial_sums import stands_for
from fedlab.errors import BadInput
from fedlab.privacy.accounting.budget import PrivacyBudget
from fedlab.privacy.accounting.release import Release
from fedlab.privacy.ridge.guarantee import Guarantee
from fedlab.stats import NoisyGram, StatisticsTotal


class DPAFL(Private, ClosedForm):
    """Ask every client once for its clipped sums, noise them or take them noised, solve.

    Args:
        guarantee: Guarantee that is promised, and to whom noise is left.
        clients: Number k of clients, over whom noise is shared under distributed trust.
        ridge: Ridge g >= 0, or 'noise'. It must not be chosen by looking at samples.
        seed, entropy: Seed and source of the server's noise, as `Private` has them.
    """

    one_round = True

    def __init__(
        self,
        guarantee: Guarantee,
        clients: int | None = None,
        ridge: float | str = "noise",
        seed: int = 0,
        entropy: str = "seeded",
    ):
        if ridge == "gcv":
            raise BadInput("ridge=gcv counts samples, which is a release of its own: say ridge=noise, or a number")
        if ridge != "noise" and (isinstance(ridge, str) or not (math.isfinite(ridge) and ridge >= 0)):
            raise BadInput(f"ridge={ridge!r} is neither a number >= 0 nor 'noise'")
        self.guarantee, self.clients, self.ridge = guarantee, clients, ridge
        super().__init__(seed, entropy)

    @property
    def privacy(self) -> PrivacyBudget:
        """The terms of its ledger."""
        return self.guarantee.budget

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Messages:
        """Ask every node; what clients release is entered before they are asked.

        Raises:
            BadInput: The budget is spent, or shares of noise would arrive without a mask.
        """
        messages = super().configure_train(server_round, arrays, config, grid)
        if self.guarantee.trust == "distributed" and not self.secure:
            raise BadInput(
                "trust=distributed without secure aggregation: a single client's share of the noise hides little; "
                "say methods=[dp_secagg_afl], or trust=local"
            )
        if self.guarantee.trust != "central":
            self._charge(server_round)
        return messages

    def aggregate_train(self, server_round: int, replies: Messages) -> tuple[ArrayRecord, None]:
        """Add what came, noise it where the server is the one to, and solve.

        Raises:
            BadInput: The budget is spent; or so few clients' shares are in the sum that it lacks noise.
        """
        total = StatisticsTotal(NoisyGram)
        heard = _Heard(replies)
        self.add(heard, total)
        sums = total.result()
        if self.guarantee.trust == "central":
            self._charge(server_round, sums.sha256)
            # Other sums or another promise, other noise: of two multiples of the same the sums could be solved.
            purpose = f"release {server_round} of {sums.sha256} under {self.guarantee}"
            sums = self.guarantee.noised(sums, self.noise(purpose))
        elif self.guarantee.trust == "distributed":
            self._check_whole(heard.clients)
        self.statistics = sums
        self.solution = sums.solution(self.ridge)
        return self.head(), None

    def _check_whole(self, clients: int) -> None:
        needed = self.guarantee.needed(self.clients or 1)
        if clients < needed:
            raise BadInput(
                f"{clients} clients' shares of the noise are in the sum, {needed} of {self.clients} were reckoned "
                f"with: the promise of epsilon={self.guarantee.epsilon} is not kept, and nothing is released; raise "
                f"privacy.dropout ({self.guarantee.dropout})"
            )

    def _charge(self, server_round: int, content: str = "") -> None:
        """Enter this round's release, before it is made."""
        p = self.guarantee
        terms: dict[str, Any] = {
            "id": self.draw_id("dp_afl", server_round, p, content),
            "label": f"noisy statistics, {p.trust} trust, round {server_round}",
            "unit": p.unit,
            "relation": p.relation,
        }
        if p.trust == "distributed":  # bounded by Renyi divergences, which compose with nothing else
            self.charge(Release(mechanism="stated", epsilon=p.epsilon, delta=p.delta, **terms))
        else:
            self.charge(Release(mechanism="gaussian", noise_multiplier=p.noise_multiplier, **terms))

    def report(self) -> dict[str, object]:
        """Return what the noisy statistics say of themselves, and of the noise."""
        if self.statistics is None or self.solution is None:
            return {}
        return {
            "statistics_sha256": self.statistics.sha256,
            "ridge": self.solution.ridge,
            "condition": self.solution.condition,
            "rank": self.solution.rank,
            "noise_multiplier": self.guarantee.noise_multiplier,
            "gram_deviation": self.statistics.gram_variance**0.5,
            "cross_deviation": self.statistics.cross_variance**0.5,
            "notes": self.privacy_notes(self.solution.diagnostic),
        }


class _Heard:
    """Replies on their way, and for how many clients they stood."""

    def __init__(self, replies: Iterable[Message]):
        self._replies = replies
        self.clients = 0

    def __iter__(self) -> Iterator[Message]:
        for reply in self._replies:
            if not reply.has_error():
                self.clients += stands_for(reply)[0]
            yield reply
