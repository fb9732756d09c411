"""DP-FedAvg: the model hides whether a client took part at all, with everything it has.

    w <- w + ( sum_{k in S} min(1, C / |u_k|) u_k + N(0, (m C)^2 I) ) / (q K)        S: each client with probability q

The server is trusted with the updates u_k and with who was drawn, and lets out w alone. The sum moves by C when a
client is added or removed, and q K is a public number, so every round is one Gaussian release of a Poisson sample.
Whoever drops out, has no samples, or did not move counts as an update of zero: noise and denominator stay.

Flower's wrapper clips and adds the noise. By itself it is not sound: it divides the sum by those who answered and
the noise by those who were reckoned with, so that dropouts leave too little; weighs clients by their samples; lets NaN
through its clip and divides by zero at an update of zero; rounds in float32 after it has clipped; draws from NumPy's
global generator; and averages the clients' metrics, which nobody noises. Here it gets finite float64 updates that
are not zero, of different clients, a sum over a fixed denominator to noise, and a generator with a seed of its own.

McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018 (the estimator with a fixed
denominator), https://arxiv.org/abs/1710.06963. K clients.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

from fedlab import checks
from fedlab.engine.aggregation.private import Private
from fedlab.engine.aggregation.replies import taken
from fedlab.engine.aggregation.strategy import FedlabStrategy, Messages
from fedlab.engine.messages.broadcast import Broadcast
from fedlab.engine.messages.records import WEIGHT, from_record, layout_of, records_of, to_record, unlike, views
from fedlab.errors import BadInput
from fedlab.privacy.accounting.budget import PrivacyBudget
from fedlab.privacy.accounting.calibration import check_noise, check_sampling, multiplier_for
from fedlab.privacy.accounting.ledger import required
from fedlab.privacy.accounting.release import Release
from fedlab.privacy.mechanisms.sensitivity import check_bound


class DPFedAvg(Private, FedlabStrategy):
    """Average clipped updates of a Poisson sample of the clients, and noise the average.

    Args:
        privacy: Budget that all rounds keep for one client, added or removed; noise is calibrated for its epsilon.
        rounds: Number of rounds that there will be.
        clip: Largest norm C of a client's update. Chosen by looking at clients it is a release of its own.
        fraction_train: Probability q in (0, 1] with which every client takes part in a round, by itself.
        noise_multiplier: Noise multiplier m; None calibrates it.
        seed, entropy: Seed and source of the sampling and the noise, as `Private` has them.

    Raises:
        BadInput: The promise is not about one client added or removed, or a setting is out of range.
    """

    one_round = True  # in the sense of a stream: its noise is calibrated for what there is, once

    def __init__(
        self,
        privacy: PrivacyBudget,
        rounds: int,
        clip: float = 1.0,
        fraction_train: float = 0.1,
        noise_multiplier: float | None = None,
        seed: int = 0,
        entropy: str = "seeded",
    ):
        if (privacy.unit, privacy.relation) != ("client", "add_remove"):
            raise BadInput(
                f"DP-FedAvg hides one client, added or removed, not one {privacy.unit} ({privacy.relation}): for "
                "samples say methods=[dp_sgd]"
            )
        check_noise(privacy, noise_multiplier)
        super().__init__(seed, entropy)
        self.privacy, self.rounds = privacy, checks.integer("rounds", rounds, least=1)
        self.clip = check_bound("clip", clip)
        self.sampling_probability = check_sampling(fraction_train)
        self.given_multiplier = noise_multiplier
        self.expected = 0.0
        self._sent = ArrayRecord()

    @cached_property
    def noise_multiplier(self) -> float:
        """The noise multiplier m: standard deviations of the noise on the sum per clipping norm."""
        return multiplier_for(self.privacy, self.given_multiplier, self.sampling_probability, self.rounds)

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise in every number of a round's model: m C / (q K)."""
        return self.noise_multiplier * self.clip / self.expected

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Messages:
        """Ask a Poisson sample of the clients; it may be empty.

        Raises:
            BadInput: The budget is spent: no client works in vain.
        """
        self.check_place(grid)
        nodes = sorted(grid.get_node_ids())
        # Fixed by the first round: a number of clients that changes with who takes part would be data.
        self.expected = self.expected or self.sampling_probability * len(nodes)
        release = self._release(server_round, "foreseen")
        if not required(self.ledger).affords(release):
            self.charge(release)  # which refuses, and says why
        self._sent = arrays
        config["server-round"] = server_round
        drawn = self.noise(f"dp_fedavg cohort {server_round}").random(len(nodes))
        content = RecordDict({"arrays": arrays, "config": config})
        chosen = [node for node, at in zip(nodes, drawn, strict=True) if at < self.sampling_probability]
        return Broadcast(content, chosen, MessageType.TRAIN)

    def aggregate_train(self, server_round: int, replies: Messages) -> tuple[ArrayRecord, None]:
        """Return the noisy model; what clients tell beside their models goes nowhere.

        Raises:
            BadInput: A client answered twice, or its model is no model; or the budget is spent.
            ClientFailed: More clients' models are none than may fail.
        """
        before = {name: array.astype(np.float64) for name, array in from_record(self._sent).items()}
        digest = hashlib.sha256()
        updates = self._updates(replies, before, digest.update)
        self.charge(self._release(server_round, digest.hexdigest()))
        zero = {name: np.zeros_like(array) for name, array in before.items()}
        flower = DifferentialPrivacyServerSideFixedClipping(
            _FixedDenominator(zero, self.expected),
            self.noise_multiplier,
            self.clip,
            self.expected,  # pyright: ignore[reportArgumentType] - it only divides by it
        )
        flower.current_arrays = to_record(zero)
        # Other updates, other noise: the same on both would give away their difference.
        words = self.noise(self._purpose(server_round, digest.hexdigest()))
        with _global_numpy(words.integers(2**32, size=8, dtype=np.uint32)), _quiet():
            moved, _ = flower.aggregate_train(server_round, updates)
        assert moved is not None
        after = {name: before[name] + step for name, step in from_record(moved).items()}
        types = {name: dtype for name, (_, dtype) in layout_of(self._sent).items()}
        return to_record({name: array.astype(types[name]) for name, array in after.items()}), None

    def _purpose(self, server_round: int, content: str) -> str:
        m, q = self.noise_multiplier, self.sampling_probability
        return f"dp_fedavg noise {server_round} of {content} at {m} {self.clip} {q}"

    def _updates(
        self, replies: Iterable[Message], before: Mapping[str, np.ndarray], hashed: Callable[[Any], None]
    ) -> list[Message]:
        """Return replies with float64 updates in place of models, by node, without those that did not move."""
        layout = layout_of(self._sent)

        def update_of(reply: Message) -> tuple[Message, dict[str, np.ndarray]]:
            records = records_of(reply.content, ArrayRecord)
            model = views(records["arrays"]) if set(records) == {"arrays"} else {}
            if (why := unlike(layout, model)) is not None:
                raise BadInput(why)
            return reply, {name: np.subtract(model[name], before[name]) for name in before}

        answers: dict[int, tuple[Message, dict[str, np.ndarray]]] = {}
        for node, answer in taken(replies, update_of):
            if node in answers:
                raise BadInput(f"node {node} answered twice: the promise is kept for one update a client")
            answers[node] = answer
        for array in before.values():
            hashed(array)
        moved = []
        for _, (reply, update) in sorted(answers.items()):
            # Flower's wrapper divides by the norm, whose square must be a number too.
            if math.hypot(*(float(np.linalg.norm(array)) for array in update.values())) <= 1e-150:
                continue
            for array in update.values():
                hashed(np.ascontiguousarray(array))
            reply.content = RecordDict({"arrays": to_record(update), "metrics": MetricRecord({WEIGHT: 1})})
            moved.append(reply)
        return moved

    def _release(self, server_round: int, content: str) -> Release:
        """Return one round's release: about all clients, for who was drawn is not known outside."""
        return Release(
            self.draw_id("dp_fedavg", server_round, content),
            f"DP-FedAvg, round {server_round}",
            "subsampled_gaussian",
            noise_multiplier=self.noise_multiplier,
            sampling_probability=self.sampling_probability,
            unit="client",
        )

    def report(self) -> dict[str, object]:
        """Return what the noise was, and what a reader must know of it."""
        return {
            "noise_multiplier": self.noise_multiplier,
            "sampling_probability": self.sampling_probability,
            "deviation": self.deviation if self.expected else None,
            "notes": self.privacy_notes(),
        }


class _FixedDenominator(FedAvg):
    """The sum of updates over a public number, all of them alike: what Flower's wrapper adds its noise to."""

    def __init__(self, zero: Mapping[str, np.ndarray], expected: float):
        super().__init__()
        self._zero, self._expected = zero, expected

    def aggregate_train(self, server_round: int, replies: Messages) -> tuple[ArrayRecord, None]:
        total = {name: array.copy() for name, array in self._zero.items()}
        for reply in replies:
            (update,) = records_of(reply.content, ArrayRecord).values()
            for name, array in views(update).items():
                total[name] += array
        return to_record({name: array / self._expected for name, array in total.items()}), None


@contextmanager
def _global_numpy(words: Sequence[int] | np.ndarray) -> Iterator[None]:
    """Let Flower draw from NumPy's global generator as these words seed it, and put back what was there."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(words)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Flower from warning that not as many answered as were reckoned with: here that does no harm."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
