"""FedAvg whose clients train by DP-SGD: every release is in the ledger before the clients are asked for it.

    one round of a client    T steps of N(0, m^2) over a Poisson sample with probability q

A client's model is a release about its own samples, to the server and whoever sees what it sees. So a client is
charged for the rounds in which it is asked, whether or not it answers; all of them have the same weight.
McMahan et al., AISTATS 2017, https://arxiv.org/abs/1602.05629.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property, partial

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedlab.engine.aggregation.averaging import WeightedMean
from fedlab.engine.messages.broadcast import nodes_of
from fedlab.engine.messages.partial_sums import PartialSum
from fedlab.engine.messages.records import digest_of, from_record, layout_of
from fedlab.engine.simulation.host import partition_of
from fedlab.errors import BadInput
from fedlab.privacy.accounting.budget import PrivacyBudget
from fedlab.privacy.accounting.calibration import check_noise, multiplier_for
from fedlab.privacy.accounting.ledger import Ledger, required
from fedlab.privacy.accounting.release import Release, id_of
from fedlab.privacy.mechanisms.noise_source import check_entropy, check_place, seeded_note


class DPSGD(FedAvg):
    """Average the clients' noisy models.

    Parameters
    ----------
    privacy
        What all rounds keep for one sample, added or removed; its epsilon is what noise is calibrated for.
    rounds, steps, sampling_probability
        As the clients have them.
    noise_multiplier
        m of the clients' steps; None where they calibrate it.
    seed
        Of the run.
    entropy
        Of the clients' noise: 'seeded' or 'os'.
    **fedavg
        What Flower's FedAvg takes.

    Attributes
    ----------
    ledger
        Where releases are entered; set by whoever runs the strategy.

    Raises
    ------
    BadInput
        The promise is not about one sample added or removed, or clients would evaluate on their own samples, which
        nobody noises.
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
        super().__init__(fraction_evaluate=0.0, **fedavg)  # pyright: ignore[reportArgumentType]
        self.privacy, self.rounds = privacy, rounds
        self.steps, self.sampling_probability = steps, sampling_probability
        self.given_multiplier = noise_multiplier
        self.seed, self.entropy = seed, check_entropy(entropy)
        self.ledger: Ledger | None = None
        self._partial_sum: Callable[[], PartialSum] | None = None

    @cached_property
    def noise_multiplier(self) -> float:
        """The noise multiplier m of the clients' steps."""
        steps = self.rounds * self.steps
        return multiplier_for(self.privacy, self.given_multiplier, self.sampling_probability, steps)

    @property
    def partial_sum(self) -> Callable[[], PartialSum] | None:
        """What averages replies where they are made: all of them weigh the same."""
        return self._partial_sum

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients as FedAvg does, charge them, and only then ask.

        Raises
        ------
        BadInput
            A budget is spent, or nobody keeps a ledger.
        """
        ledger = required(self.ledger)
        check_place(self.entropy, getattr(grid, "simulated", True))
        config["dp-sgd"] = [self.noise_multiplier, self.sampling_probability, float(self.steps)]
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if not messages:
            return messages
        nodes = nodes_of(messages).tolist()
        simulated = getattr(grid, "simulated", False)
        asked = tuple(sorted(partition_of(node) if simulated else node for node in nodes))
        sent = digest_of(from_record(arrays))
        ledger.charge(
            Release(
                id_of(self.entropy, "dp_sgd", self.seed, server_round, asked, sent, config["dp-sgd"]),
                f"DP-SGD, round {server_round}",
                "subsampled_gaussian",
                noise_multiplier=self.noise_multiplier,
                sampling_probability=self.sampling_probability,
                steps=self.steps,
                clients=asked,
            )
        )
        self._partial_sum = partial(WeightedMean, self.arrayrecord_key, layout_of(arrays))
        return messages

    def report(self) -> dict[str, object]:
        """Return what the noise was, and what a reader must know of it."""
        note = seeded_note(self.entropy)
        return {
            "noise_multiplier": self.noise_multiplier,
            "sampling_probability": self.sampling_probability,
            "steps_per_round": self.steps,
            "notes": [note] if note else [],
        }
