"""What FDKT's clients release about a text, and how much noise each release takes, so that all keep one promise.

    (epsilon, delta)  >=  T steps of DP-SGD (share of epsilon)  o  V histograms (what is left)

Of the V, all are of votes, but for one of labels where it is asked for; a text is in one entry of each.

The generator is calibrated for its share by itself; the votes' noise is the least with which both together, composed
as privacy losses and not as two epsilons, keep the whole. Both sides of a federation compute the same from the same
public settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.llm.tuning.private_generator import PrivateGenerator
from fedlab.privacy.accounting.budget import PrivacyBudget
from fedlab.privacy.accounting.calibration import votes_multiplier
from fedlab.privacy.accounting.release import Release
from fedlab.privacy.mechanisms.gaussian import check_budget


@dataclass(frozen=True)
class Budget:
    """The promise of one client about one of its texts, added or removed.

    Args:
        epsilon, delta: Privacy of everything; epsilon None or infinite adds no noise, and promises nothing.
        votes: Histograms of votes; 0 asks clients for none, and what the server writes then knows nothing of them.
        labels: Whether each client tells too, with the same noise, how many of its labelled texts have which label.
        generator: Settings of the generator, whose epsilon is its share; None where clients only vote.

    Raises:
        BadInput: One of them is out of range, or the generator spends it all.
    """

    epsilon: float | None = 8.0
    delta: float = 1e-5
    votes: int = 1
    labels: bool = False
    generator: PrivateGenerator | None = None

    def __post_init__(self) -> None:
        check_budget(1.0 if self.noiseless else self.epsilon or 0.0, self.delta)
        checks.integer("votes", self.votes, least=0)
        if self.generator is not None and self.generator.noiseless != self.noiseless:
            raise BadInput(
                f"epsilon={self.epsilon}, the generator's {self.generator.epsilon}: noise on the one and none on the "
                "other promises nothing; give both an epsilon, or neither"
            )

    @property
    def noiseless(self) -> bool:
        """Whether nothing is noised."""
        return self.epsilon is None or self.epsilon == math.inf

    @property
    def promise(self) -> PrivacyBudget | None:
        """The terms of the ledger; None where nothing is promised."""
        if self.noiseless:
            return None
        return PrivacyBudget(epsilon=self.epsilon, delta=self.delta)

    @property
    def histograms(self) -> int:
        """V: how many each client releases."""
        return self.votes + self.labels

    @cached_property
    def votes_multiplier(self) -> float:
        """The noise of each entry of each histogram: standard deviation over sensitivity; 0 without noise."""
        if self.noiseless or not self.histograms:
            return 0.0
        assert self.epsilon is not None
        beside = () if self.generator is None else (self.generator.release("generator", "generator"),)
        return votes_multiplier(self.epsilon, self.delta, self.histograms, beside)

    @property
    def terms(self) -> list[float]:
        """What client and server must have the same: multipliers and steps."""
        own = self.generator
        steps = [] if own is None else [own.multiplier, own.sampling_probability, float(own.total_steps)]
        return [self.votes_multiplier, float(self.votes), float(self.labels), *steps]

    def release(self, step: str, release_id: str, clients: tuple[int, ...], number: int) -> Release | None:
        """Return what a step releases, as the ledger counts it; None for a step, or a budget, that counts nothing.

        Args:
            step: Step of the protocol: 'synthesise', 'vote' or another.
            release_id: Identity: see `fedlab.privacy.accounting.release.id_of`.
            clients: Clients that are asked.
            number: Number of the round.
        """
        if self.noiseless:
            return None
        if step == "vote" or (step == "hello" and self.labels):
            label = f"FDKT: {'votes' if step == 'vote' else 'labels'}, round {number}"
            noise = self.votes_multiplier
            return Release(release_id, label, "gaussian", noise_multiplier=noise, clients=clients)
        if step == "synthesise" and self.generator is not None:
            return self.generator.release(release_id, f"FDKT: generator, round {number}", clients)
        return None
