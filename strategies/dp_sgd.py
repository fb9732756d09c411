"""FedAvg whose clients train by DP-SGD: every release is in the ledger before the clients are asked for it.

    one round of a client    T steps of N(0, m^2) over a Poisson sample with probability q

A client's model is a release about its own samples, to the server and whoever sees what it sees. So a client is
charged for the rounds in which it is asked, whether or not it answers; all of them have the same weight.
McMahan et al., AISTATS 2017, https://arxiv.org/abs/1602.05629.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedlab.engine.aggregation.averaging import WeightedMean
from fedlab.engine.aggregation.private import Private
from fedlab.engine.aggregation.strategy import FedlabStrategy, Messages
from fedlab.engine.messages.broadcast import nodes_of
from fedlab.engine.messages.partial_sums import PartialSum
from fedlab.engine.messages.records import digest_of, from_record, layout_of, records_of
from fedlab.errors import BadInput
from fedlab.privacy.accounting.budget import PrivacyBudget
from fedlab.privacy.accounting.calibration import check_noise, multiplier_for
from fedlab.privacy.accounting.release import Release


class DPSGD(Private, FedAvg, FedlabStrategy):
    """Average the clients' noisy models.

    Args:
        privacy: Budget that all rounds keep for one sample, added or removed; noise is calibrated for its epsilon.
        rounds, steps, sampling_probability: Numbers that the clients have too.
        noise_multiplier: Noise multiplier m of the clients' steps; None where they calibrate it.
        seed, entropy: Seed and source of the clients' noise, as `Private` has them.
        **fedavg: Settings of Flower's FedAvg.

    Raises:
        BadInput: The promise is not about one sample added or removed, or clients would evaluate on their own
            samples, which nobody noises.
    """

    one_round = True  # in the sense of a stream: its noise is calibrated for what there is, once

    def __init__(
        self,
        privacy: PrivacyBudget,
        rounds: int,
        steps: int = 1,
        sampling_probability: float = 1.0,
        noise_multiplier: float | None = None,
        seed: int = 0,
        entropy: str = "seeded",
        fraction_evaluate: float = 0.0,
        **fedavg: object,
    ):
        if (privacy.unit, privacy.relation) != ("sample", "add_remove"):
            raise BadInput(
                f"DP-SGD hides one sample, added or removed, not one {privacy.unit} ({privacy.relation}): for clients "
                "say methods=[dp_fedavg]"
            )
        check_noise(privacy, noise_multiplier)
        if fraction_evaluate:
            raise BadInput(
                f"fraction_evaluate={fraction_evaluate}: a client's accuracy on its own samples is data that nobody "
                "noises; leave it 0, the server evaluates on the test split"
            )
        Private.__init__(self, seed, entropy)
        FedAvg.__init__(self, fraction_evaluate=0.0, **fedavg)  # pyright: ignore[reportArgumentType]
        self.privacy, self.rounds = privacy, rounds
        self.steps, self.sampling_probability = steps, sampling_probability
        self.given_multiplier = noise_multiplier

    @cached_property
    def noise_multiplier(self) -> float:
        """The noise multiplier m of the clients' steps."""
        steps = self.rounds * self.steps
        return multiplier_for(self.privacy, self.given_multiplier, self.sampling_probability, steps)

    def partial_sum_of(self, messages: Sequence[Message]) -> Callable[[], PartialSum] | None:
        """Return what averages replies where they are made: all of them weigh the same."""
        if not messages:
            return None
        model = records_of(messages[0].content, ArrayRecord)[self.arrayrecord_key]
        return partial(WeightedMean, self.arrayrecord_key, layout_of(model))

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Messages:
        """Sample clients as FedAvg does, charge them, and only then ask.

        Raises:
            BadInput: A budget is spent, or nobody keeps a ledger.
        """
        config["dp-sgd"] = [self.noise_multiplier, self.sampling_probability, float(self.steps)]
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if clients := self.charged(grid, nodes_of(messages).tolist()):
            content = digest_of(from_record(arrays))
            self.charge(
                Release(
                    self.draw_id("dp_sgd", server_round, clients, content, config["dp-sgd"]),
                    f"DP-SGD, round {server_round}",
                    "subsampled_gaussian",
                    noise_multiplier=self.noise_multiplier,
                    sampling_probability=self.sampling_probability,
                    steps=self.steps,
                    clients=clients,
                )
            )
        return messages

    def report(self) -> dict[str, object]:
        """Return what the noise was, and what a reader must know of it."""
        return {
            "noise_multiplier": self.noise_multiplier,
            "sampling_probability": self.sampling_probability,
            "steps_per_round": self.steps,
            "notes": self.privacy_notes(),
        }
