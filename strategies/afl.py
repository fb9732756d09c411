"""AFL: one round, the absolute aggregation law, the centralised solution.

    W = (sum_k G_k + g I)^-1 sum_k C_k        G_k = X_k'X_k,  C_k = X_k'Y_k

Independent of the partition, of the number of clients and of the order in which they answer. The paper merges
local solutions pairwise and removes the k ridges at the end; its law is algebraically this sum (the tests
prove it), and the sum needs one ridge, stays right when clients drop out, and adds replies as they arrive in
O(d^2 + dc) memory.

He et al., AFL: A Single-Round Analytic Approach for Federated Learning with Pre-trained Models, CVPR 2025,
https://arxiv.org/abs/2405.16240. d features, c classes, k clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from safetensors import SafetensorError
from safetensors.numpy import save_file

from fedlab.engine.addition import StatisticsSum, packed_of
from fedlab.engine.broadcast import Broadcast
from fedlab.engine.records import to_record
from fedlab.engine.replies import refuse
from fedlab.errors import BadInput, unknown
from fedlab.stats import GramStats, GramSum, Solution, unpack

SATURATION = 0.01
"""Share of clipped entries above which the user is told."""


class AFL(Strategy):
    """Ask every client once for its statistics, add them, solve.

    Parameters
    ----------
    ridge
        g >= 0 of the joint system, or 'gcv' for generalised cross-validation; 0 is least squares.
    keep_clients
        Directory for each client's packed statistics, so that a client can be subtracted later. None keeps
        none; the server's memory does not grow with the number of clients either way.
    late
        What becomes of clients that answer after the deadline: 'drop', or 'merge' to add them after the round.

    Raises
    ------
    BadInput
        `late` is neither.
    """

    streaming = True

    def __init__(self, ridge: float | str = 1.0, keep_clients: str | None = None, late: str = "drop"):
        if late not in ("drop", "merge"):
            raise unknown("late", late, ("drop", "merge"))
        self.ridge, self.late = ridge, late
        self.keep_clients = Path(keep_clients) if keep_clients else None
        self._sum = GramSum()
        self.statistics: GramStats | None = None
        self.solution: Solution | None = None

    @property
    def addition(self) -> type[StatisticsSum] | None:
        """How workers may add replies before they are sent; not where each client's is to be kept."""
        return None if self.keep_clients else StatisticsSum

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every node; it needs nothing to answer."""
        content = RecordDict({"arrays": ArrayRecord(), "config": config})
        return Broadcast(content, list(grid.get_node_ids()), MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add replies as they arrive, then solve once.

        Raises
        ------
        BadInput
            No client answered with samples.
        ClientFailed
            More clients' statistics do not fit the others' than may fail; the first is named.
        """
        self._sum = GramSum()
        self._add(replies)
        return self._solve(), None

    def merge(self, replies: Iterable[Message]) -> ArrayRecord | None:
        """Add clients that answered late, and solve again; None if there were none."""
        return self._solve() if self._add(replies) else None

    def _add(self, replies: Iterable[Message]) -> int:
        added = 0
        for reply in replies:
            if reply.has_error():
                continue
            try:
                packed = packed_of(reply.content)
                self._sum.add(unpack(packed))
            except BadInput as error:
                refuse(replies, reply, error)
                continue
            added += 1
            if self.keep_clients is not None:
                _keep(self.keep_clients / f"{reply.metadata.src_node_id}.safetensors", packed)
        return added

    def _solve(self) -> ArrayRecord:
        self.statistics = self._sum.result()
        self.solution = self.statistics.solution(self.ridge)
        return to_record({"weight": self.solution.weight.numpy()})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluate on the server only: the head does not depend on the clients."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing was asked."""
        return None

    def summary(self) -> None:
        """Nothing to log: the table says it."""

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint keeps; the sum itself begins anew in every round."""
        return {"statistics": self.statistics, "solution": self.solution}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` once returned."""
        self.statistics, self.solution = state["statistics"], state["solution"]

    def report(self) -> dict[str, object]:
        """Return what the solve says of itself; `notes` is what a reader must know."""
        if self.statistics is None or self.solution is None:
            return {}
        statistics, solution = self.statistics, self.solution
        return {
            "statistics_sha256": statistics.sha256,
            "samples": statistics.count,
            "ridge": solution.ridge,
            "condition": solution.condition,
            "rank": solution.rank,
            "saturated": statistics.saturated,
            "notes": notes(statistics, solution),
        }


def notes(statistics: GramStats, solution: Solution) -> list[str]:
    """Return what a reader must know before trusting a head: how it was solved, and from which features."""
    said = [solution.note] if solution.note else []
    entries = max(1, statistics.count * statistics.num_features)
    if statistics.saturated > SATURATION * entries:
        said.append(
            f"{statistics.saturated / entries:.1%} of the features lay outside the public range and were "
            "clipped: raise features.limit"
        )
    # In integer units: below one, most features were rounded to zero.
    if statistics.scale is not None and int(statistics.gram.diagonal().sum()) < entries:
        said.append(
            "the features are smaller than one step of the fixed point and were rounded away: lower "
            "features.limit to their range (raise sigma, for RBF features), or raise analytic.bits"
        )
    return said


def _keep(path: Path, packed: dict) -> None:
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(packed, partial)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"keep_clients={path.parent} cannot be written ({error}): free space or name another"
        ) from error
