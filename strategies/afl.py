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

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

from fedlab import checks
from fedlab.engine.aggregation.closed_form import ClosedForm
from fedlab.engine.aggregation.strategy import Messages
from fedlab.engine.messages.partial_sums import StatisticsSum
from fedlab.engine.persistence.statistics_store import Keeper
from fedlab.stats import GramStats, StatisticsTotal


class AFL(ClosedForm):
    """Ask every client once for its statistics, add them, solve.

    Args:
        ridge: Ridge g >= 0 of the joint system, or 'gcv' for generalised cross-validation; 0 is least squares.
        keep_clients: Directory for each client's packed statistics and their total, so that a client can be
            subtracted later (`fedlab unlearn`); a relative one lies in the run directory. None keeps none; the
            server's memory does not grow with the number of clients either way.
        late: Fate of clients that answer after the deadline: 'drop', or 'merge' to add them after the round.

    Raises:
        BadInput: `late` is neither.
    """

    one_round = True

    def __init__(self, ridge: float | str = 1.0, keep_clients: str | None = None, late: str = "drop"):
        self.ridge, self.late = ridge, checks.choice("late", late, ("drop", "merge"))
        self.kept = Keeper(keep_clients) if keep_clients else None
        # Workers may add replies before they are sent, but not where each client's is to be kept.
        self.partial_sum = None if keep_clients else StatisticsSum
        self._sum = StatisticsTotal(GramStats)

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Messages:
        """Ask every node; it needs nothing to answer."""
        return self.ask(grid, config)

    def aggregate_train(self, server_round: int, replies: Messages) -> tuple[ArrayRecord, None]:
        """Add replies as they arrive, then solve once.

        Raises:
            BadInput: No client answered with samples.
            ClientFailed: More clients' statistics do not fit the others' than may fail; the first is named.
        """
        self._sum = StatisticsTotal(GramStats)
        if self.kept:
            self.kept.begin()
        self._add(replies)
        return self._solve(), None

    def merge(self, replies: Messages) -> ArrayRecord | None:
        """Add clients that answered late, and solve again; None if there were none."""
        return self._solve() if self._add(replies) else None

    def _add(self, replies: Messages) -> int:
        return self.add(replies, self._sum, self.kept.keep if self.kept else None)

    def _solve(self) -> ArrayRecord:
        self.statistics = statistics = self._sum.result()
        self.solution = statistics.solution(self.ridge)
        if self.kept:
            self.kept.close(statistics, self.solution)
        return self.head()
