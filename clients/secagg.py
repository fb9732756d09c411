"""The client of a secure sum: whatever a closed-form learner would send, it sends masked.

    round 1  keys      round 2  shares      round 3  upload      round 4  reveal      round 5  leave, where some do

The learner is any whose answer to one round is plain exact sums. Of these nothing leaves the client but their
masked vector: no count, no metric, and of the shape of the answer only what the settings say.

Bonawitz et al., CCS 2017, https://doi.org/10.1145/3133956.3133982; see `fedlab.privacy.secagg.server`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedlab.analytic import Analytic
from fedlab.errors import BadInput, unknown
from fedlab.method import Arrays, Config, Learner, Memory, Samples
from fedlab.privacy.mechanisms.noise_source import check_entropy
from fedlab.privacy.secagg.client import Participant
from fedlab.privacy.secagg.graph import Terms
from fedlab.privacy.secagg.key_agreement import fresh
from fedlab.privacy.secagg.server import STEPS
from fedlab.stats import unpack
from fedlab.stats.serialization.integers import Layout, integers


class SecureAggregation(Learner):
    """A learner whose statistics only leave the client masked.

    Args:
        num_classes: Number of classes c.
        learner: Function that makes the learner that observes, given `num_classes`.
        dropout, colluding: Shares of the clients, as `fedlab.privacy.secagg.graph.Terms` has them; the server must
            say the same.
        entropy: Source of the keys: 'os', or 'seeded' to repeat them, which hides nothing from who knows the seed.
    """

    remembers = True

    def __init__(
        self,
        num_classes: int,
        learner: Callable[..., Analytic],
        dropout: float = 0.3,
        colluding: float = 0.1,
        entropy: str = "os",
    ):
        self.learner = learner(num_classes=num_classes)
        self.num_classes, self.dropout, self.colluding = num_classes, dropout, colluding
        self.entropy = check_entropy(entropy)
        if self.learner.mode != "exact":
            raise BadInput(f"mode={self.learner.mode}: only integers can be masked, say mode=exact")
        # What the server's side of the method asks is the learner's to answer.
        self.initial, self.estimate_memory = self.learner.initial, self.learner.estimate_memory
        self.features, self.scores = self.learner.features, self.learner.scores

    def respond(
        self, arrays: Arrays, config: Config, samples: Samples, memory: Memory, who: int, clients: int, seed: int
    ) -> tuple[dict[str, np.ndarray], Memory]:
        """Return the answer to one step, and what to remember until the next.

        `session` in the config says in which aggregation the step is; samples are looked at in the one that needs them.

        Raises:
            BadInput: The step is unknown, out of order, or asks for what the client does not give.
        """
        step, session = config.get("step"), config.get("session")
        if step not in STEPS or not isinstance(session, bytes):
            raise unknown("step of a secure sum", step, STEPS)
        one = Participant(who, Terms(clients, self.dropout, self.colluding))
        question = dict(arrays)

        def keys() -> tuple[dict[str, np.ndarray], Memory]:
            purpose = f"client {who} of {session.hex()}"
            answer, keeps = one.keys(session, memory, lambda: fresh(self.entropy, seed, purpose))
            return {**answer, "who": np.array([who], np.uint64)}, keeps

        def upload() -> tuple[dict[str, np.ndarray], Memory]:
            x, labels = samples()
            packed, _ = self.learner.train({}, config, x, labels, seed)
            statistics = unpack(packed)
            answer, keeps = one.upload(question, integers(statistics, clients), session, memory)
            return {**answer, "layout": Layout.of(statistics).numbers()}, keeps

        steps = {
            "keys": keys,
            "shares": lambda: one.shares(question, session, memory),
            "upload": upload,
            "reveal": lambda: one.reveal(question, session, memory),
            "leave": lambda: one.part(question, session, memory),
        }
        return steps[step]()
