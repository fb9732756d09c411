"""The round loop: Flower's callbacks in Flower's order, with failures that surface.

`Strategy.start` logs a failed client and goes on, returns None when all failed, and cannot tell anyone how
far it is, nor go on where it was cut off. This loop calls the same methods of the same strategies, raises
unless the config tolerates a failure, keeps clients without samples out of averages they have nothing to say
in, and continues from a checkpoint to the bits it would have come to without the break.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import Strategy

from fedlab import checks
from fedlab.engine.aggregation.replies import Replies
from fedlab.engine.aggregation.strategy import contract_of
from fedlab.engine.messages.broadcast import Broadcast
from fedlab.engine.persistence.checkpoint import Checkpoints, GlobalRandomness, NodeStates
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput

Evaluate = Callable[[int, ArrayRecord], Mapping[str, float]]
"""Called as evaluate(round, model), for the metrics of a model."""


@dataclass
class History:
    """What the loop saw.

    Attributes:
        arrays: Model after the last round.
        rounds: Number of rounds that were run.
        seconds: Per phase: train (waiting for clients), aggregate, evaluate.
        elapsed: Seconds in all, in every process that ran a part of the rounds.
        metrics: Results of the server's own evaluation of `arrays`.
        failures: Tolerated failures: client to the reason.
        federated: Metrics that the strategy made of the clients' own evaluation in the last round; empty if none was
            asked for.
    """

    arrays: ArrayRecord
    rounds: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "aggregate": 0.0, "evaluate": 0.0})
    elapsed: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    federated: MetricRecord = field(default_factory=MetricRecord)


def run_rounds(
    strategy: Strategy,
    grid: MeteredGrid,
    arrays: ArrayRecord,
    num_rounds: int,
    evaluate: Evaluate | None = None,
    timeout: float | None = None,
    tolerate: float = 0.0,
    checkpoints: Checkpoints | None = None,
) -> History:
    """Run a strategy for some rounds, or for those that are left of them.

    Args:
        strategy: Any strategy of Flower's message API.
        grid: Grid of the clients.
        arrays: Initial model.
        num_rounds: Number of rounds.
        evaluate: Server's own evaluation (round, model), as Flower has it: called before the first round (as
            after round 0) and after each; what it remembers itself, in a `state_dict`, is kept in checkpoints.
        timeout: Seconds to wait for the replies of a round; None waits for all.
        tolerate: Share of a round's clients that may fail, in [0, 1).
        checkpoints: Files of every round, from which the run goes on if some are there; None keeps none.

    Raises:
        ClientFailed: More clients failed than are tolerated; the first one's traceback is in the message.
        BadInput: `tolerate` is out of range, more clients were silent than are tolerated, the strategy made no model
            of the replies it got, or a checkpoint cannot be written or used.
    """
    checks.number("tolerate", tolerate, least=0, below=1, remedy="the share of a round's clients that may fail")
    method, history = contract_of(strategy), History(arrays)
    state = {
        "strategy": strategy,
        "history": history,
        "traffic": grid.traffic,
        "nodes": NodeStates(grid),
        "random": GlobalRandomness(),
        "evaluation": evaluate,
    }
    resumed = checkpoints.restore(state) if checkpoints else None
    began = time.perf_counter() - history.elapsed
    if resumed is None:
        _evaluate(history, grid, evaluate, 0)
    else:
        grid.emit("resume", round=resumed)
    for server_round in range(history.rounds + 1, num_rounds + 1):
        waited = grid.traffic.seconds
        started = time.perf_counter()
        questions = method.configure_train(server_round, history.arrays, ConfigRecord(), grid)
        messages = questions if isinstance(questions, Broadcast) else list(questions)
        partial_sum, models = method.partial_sum_of(messages), method.replies_are_models
        replies = Replies(grid, messages, timeout, tolerate, history.failures, partial_sum, models)
        # Flower's strategies walk their replies more than once; only one that says it streams gets a stream.
        if method.streaming:
            with _undisturbed():
                aggregated, _ = method.aggregate_train(server_round, replies)
        else:
            with _undisturbed():
                received = list(replies)
            aggregated, _ = method.aggregate_train(server_round, received)
        if aggregated is not None:
            history.arrays = _typed_as(history.arrays, aggregated)
        elif messages and replies.with_samples:
            raise BadInput(
                f"round {server_round}: {type(strategy).__name__} made no model of {replies.with_samples} "
                "replies, which may be too few for it: ask more clients each round, or let it assume fewer "
                "malicious ones"
            )
        if method.late == "merge":
            # A sum has no deadline: who comes later is one more term.
            merged = method.merge(grid.stream_late(partial_sum=partial_sum))
            history.arrays = merged or history.arrays
        waited = grid.traffic.seconds - waited
        history.seconds["train"] += waited
        history.seconds["aggregate"] += time.perf_counter() - started - waited

        started = time.perf_counter()
        messages = list(method.configure_evaluate(server_round, history.arrays, ConfigRecord(), grid))
        with _undisturbed():
            answers = list(Replies(grid, messages, timeout, tolerate, history.failures))
        history.federated = method.aggregate_evaluate(server_round, answers) or MetricRecord()
        history.seconds["evaluate"] += time.perf_counter() - started
        history.rounds = server_round
        _evaluate(history, grid, evaluate, server_round)
        history.elapsed = time.perf_counter() - began
        for where in checkpoints.after(server_round, state) if checkpoints else []:
            grid.emit("warning", message=f"a checkpoint cannot keep {where}: a resumed run has it as it began")
    return history


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let clients that run in this process draw from its global generators without the server's missing it."""
    own = GlobalRandomness()
    before = own.state_dict()
    try:
        yield
    finally:
        own.load_state_dict(before)


def _typed_as(model: ArrayRecord, aggregated: ArrayRecord) -> ArrayRecord:
    """Return the aggregate in the number types of the model that was sent."""
    # FedAdam, FedYogi and QFedAvg multiply by a NumPy float64 scalar, which makes float64 of a float32 model:
    # clients could not train it, and it would weigh twice as much.
    types = {name: np.dtype(array.dtype) for name, array in model.items()}
    with np.errstate(over="ignore"):  # a model that diverged is said where it is judged
        changed = {
            name: Array(array.numpy().astype(types[name]))
            for name, array in aggregated.items()
            if name in types and np.dtype(array.dtype) != types[name]
        }
    return ArrayRecord({**aggregated, **changed}) if changed else aggregated


def _evaluate(history: History, grid: MeteredGrid, evaluate: Evaluate | None, server_round: int) -> None:
    started = time.perf_counter()
    # A closed-form strategy has no model before its first round.
    history.metrics = dict(evaluate(server_round, history.arrays)) if evaluate and len(history.arrays) else {}
    history.seconds["evaluate"] += time.perf_counter() - started
    if history.metrics:
        traffic = {"bytes_up": grid.traffic.bytes_up, "bytes_down": grid.traffic.bytes_down}
        grid.emit("round", round=server_round, **traffic, seconds=sum(history.seconds.values()), **history.metrics)
