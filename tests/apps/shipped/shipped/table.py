"""The strategies, one row each. A row's name and its key in the results are the same."""

from collections.abc import Callable
from dataclasses import dataclass

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg, Strategy

NODES = 8
"""Bulyan needs 4 honest nodes for each malicious one, and 3 more."""


@dataclass(frozen=True)
class Row:
    """A strategy, what its clients do, and how far two engines may differ.

    Attributes:
        task: What the clients train: 'linear', 'trees' or 'next tree'.
        mod: The mod that clips on the client's side, if any.
        tolerance: Of the difference to Flower's own engine, relative to the largest number. Flower adds the replies
            in the order in which they arrive, which is another one in every run; 0 where the order has no influence.
    """

    name: str
    strategy: Callable[[], Strategy]
    tolerance: float
    task: str = "linear"
    mod: str = ""


ORDER = 1e-6
"""float32 sums of eight models in another order, and steps from there: 2e-7 was the most that was seen."""


def plain(**more: float) -> FedAvg:
    return FedAvg(fraction_evaluate=0.0, **more)  # pyright: ignore[reportArgumentType]


def noisy(kind: type, **more: float) -> Callable[[], Strategy]:
    return lambda: kind(plain(), noise_multiplier=0.5, num_sampled_clients=NODES, **more)


def row(kind: type, tolerance: float = ORDER, **more: float) -> Row:
    return Row(kind.__name__, lambda: kind(fraction_evaluate=0.0, **more), tolerance)


ROWS = [
    Row("FedAvg", lambda: FedAvg(), ORDER),
    Row("FedAvg, half of the nodes", lambda: FedAvg(fraction_train=0.5, fraction_evaluate=0.25), ORDER),
    row(flower.FedProx, proximal_mu=0.3),
    row(flower.FedAvgM, server_learning_rate=0.8, server_momentum=0.9),
    row(flower.FedAdam),
    row(flower.FedAdagrad),
    row(flower.FedYogi),
    row(flower.FedMedian, 0.0),
    row(flower.FedTrimmedAvg),
    row(flower.Krum, 0.0, num_malicious_nodes=1),
    row(flower.MultiKrum, num_malicious_nodes=1, num_nodes_to_select=4),
    row(flower.Bulyan, num_malicious_nodes=1),
    row(flower.QFedAvg, client_learning_rate=0.1),
    Row(
        "DifferentialPrivacyServerSideFixedClipping",
        noisy(flower.DifferentialPrivacyServerSideFixedClipping, clipping_norm=0.2),
        ORDER,
    ),
    Row(
        "DifferentialPrivacyClientSideFixedClipping",
        noisy(flower.DifferentialPrivacyClientSideFixedClipping, clipping_norm=0.2),
        ORDER,
        mod="fixed",
    ),
    Row(
        "DifferentialPrivacyServerSideAdaptiveClipping",
        noisy(flower.DifferentialPrivacyServerSideAdaptiveClipping),
        ORDER,
    ),
    Row(
        "DifferentialPrivacyClientSideAdaptiveClipping",
        noisy(flower.DifferentialPrivacyClientSideAdaptiveClipping),
        ORDER,
        mod="adaptive",
    ),
    Row("FedXgbBagging", lambda: flower.FedXgbBagging(fraction_evaluate=0.0), ORDER, task="trees"),
    Row("FedXgbCyclic", lambda: flower.FedXgbCyclic(fraction_evaluate=0.0), 0.0, task="next tree"),
]
