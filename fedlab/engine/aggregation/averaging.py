"""Averages formed where the replies are made: a block of clients answers with its mean and its weight.

    sum_i n_i w_i / sum_i n_i        over a block's clients, then over the blocks

The mean of the blocks' means, each weighing what its clients weigh together, is the mean over the clients: a
strategy that averages by samples gets a reply per block in place of one per client, and need not know. Sums run
in float64, in the order of the clients. A client whose reply is not like the model that was sent, or holds NaN, is
refused by itself; one without samples weighs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from fedlab.engine.messages.partial_sums import PartialSum
from fedlab.engine.messages.records import WEIGHT, Layout, layout_of, records_of, to_record, unlike, views
from fedlab.errors import BadInput

AVERAGING = (flower.FedAvg, flower.FedProx, flower.FedAvgM, flower.FedAdagrad, flower.FedAdam, flower.FedYogi)
"""Flower's strategies whose only use of the replies is their mean by samples."""


class WeightedMean:
    """The running mean of replies.

    Args:
        record: Name of the arrays' record.
        layout: Shapes and types of the model.
    """

    def __init__(self, record: str, layout: Layout):
        self.record, self.layout = record, layout
        self._arrays = {name: np.zeros(shape) for name, (shape, _) in layout.items()}
        self._metrics: dict[str, float] = {}
        self._metric_record = "metrics"
        self._weight = 0.0

    def add(self, content: RecordDict) -> None:
        """Add one client's reply."""
        metrics, arrays = records_of(content, MetricRecord), records_of(content, ArrayRecord)
        if list(arrays) != [self.record] or len(metrics) != 1:
            raise BadInput(f"it holds the records {sorted(content)}: expected {self.record!r} and one of metrics")
        ((name, numbers),) = metrics.items()
        self.add_arrays(views(arrays[self.record]), numbers)
        self._metric_record = name

    def add_arrays(self, arrays: Mapping[str, np.ndarray], metrics: Mapping[str, object]) -> None:
        """Add one client's model and what it tells of itself.

        Raises:
            BadInput: The arrays are not like the model, hold NaN or infinite numbers, a metric is no number, or the
                weight is negative, infinite or NaN.
        """
        if (why := unlike(self.layout, arrays)) is not None:
            raise BadInput(why)
        numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
        weight = float(numbers.get(WEIGHT, math.nan))
        if len(numbers) < len(metrics) or not 0 <= weight < math.inf:
            raise BadInput(f"its metrics are {dict(metrics)}: expected numbers, and {WEIGHT} of at least 0")
        if not weight:
            return
        for name, total in self._arrays.items():
            total += np.multiply(arrays[name], weight, dtype=np.float64)
        for name, value in numbers.items():
            self._metrics[name] = self._metrics.get(name, 0.0) + weight * value
        self._weight += weight

    def content(self) -> RecordDict:
        """Return the mean, as if one client with all the samples had sent it."""
        share = 1 / self._weight if self._weight else 0.0
        arrays = {name: (total * share).astype(self.layout[name][1]) for name, total in self._arrays.items()}
        metrics = {name: value * share for name, value in self._metrics.items()} | {WEIGHT: self._weight}
        return RecordDict({self.record: to_record(arrays), self._metric_record: MetricRecord({**metrics})})


def partial_mean(strategy: Strategy, messages: Sequence[Message]) -> Callable[[], PartialSum] | None:
    """Return what averages replies for a strategy of Flower's that only wants their mean; None for any other."""
    if not isinstance(strategy, flower.FedAvg) or type(strategy) not in AVERAGING or not len(messages):
        return None
    if strategy.weighted_by_key != WEIGHT or strategy.train_metrics_aggr_fn is not aggregate_metricrecords:
        return None
    records = records_of(messages[0].content, ArrayRecord)
    model = records.get(strategy.arrayrecord_key)
    if not isinstance(model, ArrayRecord):
        return None
    layout = layout_of(model)
    if any(dtype.kind != "f" for _, dtype in layout.values()):
        return None
    return partial(WeightedMean, strategy.arrayrecord_key, layout)
