"""The client of a secure sum: whatever a closed-form learner would send, it sends masked.

    round 1  keys      round 2  shares      round 3  upload      round 4  reveal      round 5  leave, where some do

The learner is any whose answer to one round is plain exact sums. Of these nothing leaves the client but their
masked vector: no count, no metric, and of the shape of the answer only what the settings say.

Bonawitz et al., CCS 2017, https://doi.org/10.1145/3133956.3133982; see `fedlab.privacy.secagg.server`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.errors import BadInput, unknown
from fedlab.privacy.mechanisms.noise_source import check_entropy
from fedlab.privacy.secagg.client import Answer, Memory, Participant
from fedlab.privacy.secagg.graph import Terms
from fedlab.privacy.secagg.key_agreement import fresh
from fedlab.privacy.secagg.server import STEPS
from fedlab.stats import unpack
from fedlab.stats.serialization.integers import Layout, integers


class SecureAggregation:
    """A learner whose statistics only leave the client masked.

    Parameters
    ----------
    num_classes
        c.
    learner
        Makes the learner that observes, given `num_classes`.
    dropout, colluding
        Shares of the clients, as `fedlab.privacy.secagg.graph.Terms` has them; the server must say the same.
    entropy
        Where keys come from: 'os', or 'seeded' to repeat them, which hides nothing from who knows the seed.
    """

    def __init__(
        self,
        num_classes: int,
        learner: Callable[..., Any],
        dropout: float = 0.3,
        colluding: float = 0.1,
        entropy: str = "os",
    ):
        self.learner = learner(num_classes=num_classes)
        self.num_classes, self.dropout, self.colluding = num_classes, dropout, colluding
        self.entropy = check_entropy(entropy)
        if getattr(self.learner, "mode", "exact") != "exact":
            raise BadInput(f"mode={self.learner.mode}: only integers can be masked, say mode=exact")

    def respond(
        self,
        arrays: Answer,
        config: Mapping[str, object],
        samples: Callable[[], tuple[Tensor, Tensor]],
        memory: Memory,
        who: int,
        clients: int,
        seed: int,
    ) -> tuple[Answer, Memory]:
        """Return the answer to one step, and what to remember until the next.

        Parameters
        ----------
        arrays, config
            What was asked: 'step' and 'session' in the config say of what and in which aggregation.
        samples
            Returns features and labels; called in the one step that needs them.
        memory
            What was returned in the step before; empty at first.
        who
            Which client this is, its partition.
        clients
            How many there are.
        seed
            Of this client in this round.

        Raises
        ------
        BadInput
            The step is unknown, out of order, or asks for what the client does not give.
        """
        step, session = config.get("step"), config.get("session")
        if step not in STEPS or not isinstance(session, bytes):
            raise unknown("step of a secure sum", step, STEPS)
        one = Participant(who, Terms(clients, self.dropout, self.colluding))
        if step == "keys":
            purpose = f"client {who} of {session.hex()}"
            answer, memory = one.keys(session, memory, lambda: fresh(self.entropy, seed, purpose))
            return {**answer, "who": np.array([who], np.uint64)}, memory
        if step == "shares":
            return one.shares(arrays, session, memory)
        if step == "reveal":
            return one.reveal(arrays, session, memory)
        if step == "leave":
            return one.part(arrays, session, memory)
        packed, _ = self.learner.train({}, config, *samples(), seed)
        statistics = unpack(packed)
        answer, memory = one.upload(arrays, integers(statistics, clients), session, memory)
        return {**answer, "layout": Layout.of(statistics).numbers()}, memory

    # -- what the server's side of the method asks --------------------------------------------------------------

    def estimate_memory(self, counts: list[int], d0: int) -> str | None:
        """Say what the learner says of the memory it will take."""
        return self.learner.estimate_memory(counts, d0) if hasattr(self.learner, "estimate_memory") else None

    def initial(self, d0: int, seed: int) -> dict[str, np.ndarray]:
        """Return the learner's initial model."""
        return self.learner.initial(d0, seed)

    def features(self, x: Tensor) -> Tensor:
        """Return what the head multiplies."""
        return self.learner.features(x)

    def scores(self, arrays: Mapping[str, np.ndarray], h: Tensor) -> torch.Tensor:
        """Return the scores of features."""
        return self.learner.scores(arrays, h)
