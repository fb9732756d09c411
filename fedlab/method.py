"""The contract of a method: read this first.

A method is two classes and a file of conf/methods that names them: a `Learner` on every client, which knows neither
Flower nor the network, and a `FedlabStrategy` on the server, which asks the clients and makes a model of what they
answer (it is in `fedlab.engine.aggregation.strategy`, for it is a Flower strategy). The two apps and the round loop
ask both sides for what is written here, and for nothing else. Nearest class mean, whole, of names that this module
lends:

    class NearestMean(Learner):                                # clients/nearest_mean.py
        def __init__(self, num_classes):
            self.num_classes = num_classes

        def train(self, arrays, config, x, labels, seed):      # the sums of a client's samples, class by class
            one_hot = torch.eye(self.num_classes, dtype=torch.float64)[labels]
            return {"sums": (one_hot.T @ x.double()).numpy(), "counts": one_hot.sum(0).numpy()}, {}

        def scores(self, arrays, h):                           # (n, c): the nearest mean has the largest
            return -torch.cdist(h.double(), torch.tensor(arrays["means"]))

    class NearestMean(FedlabStrategy):                         # strategies/nearest_mean.py
        streaming = one_round = True
        rounds_per_step = 1
        partial_sum = ArraySum

        def aggregate_train(self, server_round, replies):
            total = sum_of(replies)
            means = total["sums"] / total["counts"].clip(1)[:, None]
            means[total["counts"] == 0] = 1e9                  # nobody holds the class: far from every sample
            return to_record({"means": means}), None

(A method that is to be compared with others takes their `expansion` and checks its features, as the one that
`fedlab new method` writes does.)

n samples, d0 backbone features, d features of the method, c classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fedlab.errors import BadInput

if TYPE_CHECKING:
    from flwr.app import ArrayRecord

    from fedlab.engine.aggregation.replies import sum_of
    from fedlab.engine.aggregation.strategy import FedlabStrategy, Messages
    from fedlab.engine.messages.partial_sums import ArraySum
    from fedlab.engine.messages.records import to_record

SERVER = {
    "ArrayRecord": "flwr.app",
    "ArraySum": "fedlab.engine.messages.partial_sums",
    "FedlabStrategy": "fedlab.engine.aggregation.strategy",
    "Messages": "fedlab.engine.aggregation.strategy",
    "sum_of": "fedlab.engine.aggregation.replies",
    "to_record": "fedlab.engine.messages.records",
}
"""What the server's side needs, and where it is."""
__all__ = [
    "Answer",
    "ArrayRecord",
    "ArraySum",
    "Arrays",
    "Config",
    "FedlabStrategy",
    "Learner",
    "Memory",
    "Messages",
    "Samples",
    "learner_of",
    "sum_of",
    "to_record",
]

Arrays = Mapping[str, np.ndarray]
"""Named arrays: a model, or statistics."""
Config = Mapping[str, object]
"""Settings that the server sends beside the arrays."""
Answer = tuple[dict[str, np.ndarray], dict[str, int | float]]
"""What a client sends, and the metrics beside it; `num-examples` is its weight in an average, 0 leaves it out."""
Memory = Mapping[str, bytes]
"""What a client remembers from round to round."""
Samples = Callable[[], tuple[Any, ...]]
"""Function that returns a client's features and labels, and its texts where the method reads texts."""


class Learner:
    """The client's side of a method: made once with `num_classes` and the settings of conf, asked about any client.

    One object speaks for all clients of a process, so it remembers nothing itself. `scores` must be written, and
    `train`, or `respond` with `remembers`; everything else has a default. An object that is no subclass will do if it
    has `initial`, `train` or `respond`, `features` and `scores` (`learner_of`).

    Attributes:
        remembers: Whether a client remembers something from round to round: it is then asked by `respond`, never by
            `train`.
        reads_texts: Whether `respond` is given the samples themselves (a `Split`) beside their features.
    """

    remembers: bool = False
    reads_texts: bool = False

    def initial(self, d0: int, seed: int) -> dict[str, np.ndarray]:
        """Return the model before the first round; none, where the first round makes it."""
        return {}

    def train(self, arrays: Arrays, config: Config, x: Tensor, labels: Tensor, seed: int) -> Answer:
        """Return what a client answers from its samples in this round, and its metrics.

        Args:
            arrays, config: Model and settings that the server sent; `server-round` is in the settings unless a
                strategy leaves it out.
            x, labels: Backbone features (n, d0) and classes (n,) of the client; n = 0 is legal.
            seed: Seed of this client in this round.

        Raises:
            BadInput: The samples cannot be used; the client then counts as failed.
        """
        raise NotImplementedError

    def respond(
        self, arrays: Arrays, config: Config, samples: Samples, memory: Memory, who: int, clients: int, seed: int
    ) -> tuple[dict[str, np.ndarray], Memory]:
        """Return the answer to one step of a protocol, and what the client then remembers; it tells no metric.

        Args:
            arrays, config: Question of the step: `step` in the settings is its name
                (`fedlab.engine.aggregation.protocol`).
            samples: Function that returns features and labels, and the texts where `reads_texts`; a step may need none.
            memory: Memory that the step before returned; empty at first.
            who, clients: Number of this client, and of all.
            seed: Seed of this client in this round.
        """
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """Return what `scores` takes, (n, d), of backbone features (n, d0): what is the same for every model."""
        return x

    def scores(self, arrays: Arrays, h: Tensor) -> Tensor:
        """Return a model's scores (n, c) of features (n, d); the largest is the class."""
        raise NotImplementedError

    def train_many(
        self, arrays: Arrays, config: Config, xs: Sequence[Tensor], labels: Sequence[Tensor], seeds: Sequence[int]
    ) -> list[Answer] | None:
        """Return what `train` answers for each of many clients; None, the default, asks them one by one."""
        return None

    def train_in_total(
        self, x: Tensor, labels: Tensor, sizes: Sequence[int], arrays: Arrays, config: Config
    ) -> tuple[dict[str, np.ndarray], int] | None:
        """Return the sum of what `train` answers for many clients, and the bytes of all those answers.

        It is asked where the strategy has a `partial_sum`; None, the default, lets clients answer and adds them.

        Args:
            x, labels: Samples of all, client after client.
            sizes: Number of samples of each client; their sum is n.
            arrays, config: Model and settings that all of them were sent.
        """
        return None

    def estimate_memory(self, counts: Sequence[int], d0: int) -> str | None:
        """Say what the server will need for these class counts, before anything is taken; None where it is little.

        Raises:
            BadInput: It would not fit into memory.
        """
        return None


def learner_of(model: object) -> Learner:
    """Return the learner that an object is, with the contract's defaults for what it leaves out.

    Raises:
        BadInput: A method is missing; the message names it.
    """

    def written(name: str) -> bool:
        method = getattr(model, name, None)
        return callable(method) and getattr(method, "__func__", None) is not getattr(Learner, name)

    ours = isinstance(model, Learner)
    remembers = model.remembers if ours else written("respond")
    needed = ("initial", "respond" if remembers else "train", "features", "scores")
    if missing := [name for name in (needed[1::2] if ours else needed) if not written(name)]:
        raise BadInput(
            f"client {type(model).__name__} has no method {', '.join(missing)}: a learner has initial, train (or "
            "respond, where it remembers something), features and scores; see fedlab.method.Learner"
        )
    if ours:
        return model
    learner = Learner()
    given = {name: getattr(model, name) for name in vars(Learner) if name[0] != "_" and hasattr(model, name)}
    vars(learner).update(given, remembers=remembers)
    return learner


def __getattr__(name: str) -> Any:
    if name in SERVER:  # Flower's too, and clients know no Flower
        return getattr(import_module(SERVER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
