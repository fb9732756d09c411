"""The yardstick: one machine that has everybody's samples, or all that anyone has met by each step of a stream."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from flwr.app import ArrayRecord

from fedlab.analytic import Analytic, Joint
from fedlab.analytic.diagnostics import diagnostics
from fedlab.engine.aggregation.server_evaluation import ServerEvaluator
from fedlab.engine.messages.records import to_record
from fedlab.errors import BadInput
from fedlab.stats import Solution
from fedlab.tracking.outcome import Outcome
from fedlab.world import World
from strategies.app import digest, estimate_memory


def centralised(
    learner: Analytic, everyone: World, ridge: float | str, seed: int, emit: Callable[..., None]
) -> tuple[dict[str, Any], ArrayRecord, list[str]]:
    """Return the result, the model, and what must be said of it.

    Args:
        learner: Learner that reduces samples to statistics.
        everyone: World of the samples, and of the steps in which they come.
        ridge: Ridge g of the joint system, or 'gcv'.
        seed: Seed of the run; it is only reported.
        emit: Listener to every step.
    """
    estimate_memory(learner, everyone)
    judge = ServerEvaluator(learner, everyone, rounds=1)
    memory = Joint(ridge)
    seconds: dict[str, float] = defaultdict(float)
    arrays, metrics, solution = ArrayRecord(), {}, None
    for step, (x, labels) in enumerate(everyone.steps(), start=1 if everyone.client_stream else 0):
        started = time.perf_counter()
        memory = memory.add(learner.observe(x, labels))
        trained = time.perf_counter()
        seconds["train"] += trained - started
        if not memory.total.count:
            continue  # nobody has met a sample yet
        solution: Solution | None = memory.solution()
        arrays = to_record({"weight": solution.weight.numpy()})
        aggregated = time.perf_counter()
        metrics = judge(step, arrays)
        seconds["aggregate"] += aggregated - trained
        seconds["evaluate"] += time.perf_counter() - aggregated
        emit("round", round=step, bytes_up=0, bytes_down=0, seconds=sum(seconds.values()), **metrics)
    if solution is None:
        raise BadInput("nobody meets a sample: there is nothing to learn from")
    solved = {"ridge": solution.ridge, "condition": solution.condition, "rank": solution.rank}
    outcome = Outcome(
        strategy="centralised",
        seed=seed,
        clients=1,
        rounds=0,
        accuracy=metrics.get("accuracy"),
        metrics={**metrics, **judge.summary(), **solved},
        statistics_sha256=memory.total.sha256,
        head_sha256=digest(arrays),
        bytes_up_per_client=0,
        bytes_down_per_client=0,
        seconds={"setup": 0.0, **seconds, "total": sum(seconds.values())},
    )
    return outcome.values(), arrays, diagnostics(memory.total, solution)
