"""Replies that may be added where they are made, so that one message stands for many.

    sum over the clients of a block, in the worker;  sum over the blocks, in the strategy

A strategy whose aggregate is a sum says so (`partial_sum = ArraySum`), and the Grid returns one reply per block
of clients instead of one per client: the same sum, a thousandth of the traffic. Blocks are a property of the
federation and are added in their order, so that floating-point sums do not depend on the number of workers.
Error replies are never added: each comes back by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedlab.engine.messages.records import from_record, records_of, to_record, views
from fedlab.errors import BadInput
from fedlab.stats import StatisticsTotal, pack, unpack

STANDS_FOR = "fedlab.stands-for"
"""Name of the record that says for how many clients and bytes a reply stands."""


class PartialSum(Protocol):
    """A running sum of the contents of replies."""

    def add(self, content: RecordDict) -> None:
        """Add one reply; on BadInput the sum stays as it was."""
        ...

    def content(self) -> RecordDict:
        """Return the sum, as if one client had sent it."""
        ...


NewSum = Callable[[], PartialSum]
"""Maker of a sum that holds nothing yet: the class, or a function of it."""


class ArraySum:
    """Array by array and metric by metric, in the order of the replies.

    Raises:
        BadInput: A reply's records, arrays, shapes or types are not those of the first.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, dict[str, np.ndarray]] = {}
        self._metrics: dict[str, dict[str, float | int | np.ndarray]] = {}
        self._layout: object = None

    def add(self, content: RecordDict) -> None:
        """Add one reply."""
        arrays = {name: views(record) for name, record in records_of(content, ArrayRecord).items()}
        metrics = {
            name: {key: np.array(v) if isinstance(v, list) else v for key, v in record.items()}
            for name, record in records_of(content, MetricRecord).items()
        }
        layout = (
            {name: {k: (a.shape, a.dtype) for k, a in record.items()} for name, record in arrays.items()},
            {name: {k: np.shape(v) for k, v in record.items()} for name, record in metrics.items()},
        )
        if self._layout is None:
            # The total owns its arrays: what Flower hands out is read-only.
            self._arrays = {n: {k: np.array(a) for k, a in r.items()} for n, r in arrays.items()}
            self._metrics, self._layout = metrics, layout
            return
        if layout != self._layout:
            raise BadInput(f"a reply holds {layout}, the ones before it {self._layout}: they cannot be added")
        for name, record in arrays.items():
            for key, array in record.items():
                self._arrays[name][key] += array
        for name, record in metrics.items():
            for key, value in record.items():
                self._metrics[name][key] = self._metrics[name][key] + value

    def content(self) -> RecordDict:
        """Return the sums under the names of the replies' records."""
        total = RecordDict({name: to_record(arrays) for name, arrays in self._arrays.items()})
        for name, record in self._metrics.items():
            plain = {key: v.tolist() if isinstance(v, np.ndarray) else v for key, v in record.items()}
            total[name] = MetricRecord(plain)
        return total


class StatisticsSum:
    """Packed statistics of any kind: what `fedlab.stats.pack` made, added in the memory of one."""

    def __init__(self) -> None:
        self._sum = StatisticsTotal()

    def add(self, content: RecordDict) -> None:
        """Add one client's statistics, or a sum of some."""
        self._sum.add(unpack(packed_of(content)))

    def content(self) -> RecordDict:
        """Return the packed total."""
        return packed_content(self._sum.result())


def packed_content(statistics: Any) -> RecordDict:
    """Return the content of a reply that carries statistics of any kind."""
    return RecordDict({"arrays": to_record(pack(statistics))})


def packed_of(content: RecordDict) -> dict[str, np.ndarray]:
    """Return the packed statistics that a reply carries; a BadInput where there are none."""
    record = content.get("arrays")
    if not isinstance(record, ArrayRecord):
        raise BadInput(f"it holds {sorted(content)}: expected packed statistics under 'arrays'")
    return from_record(record)


def as_partial_sum(content: RecordDict, clients: int, num_bytes: int) -> RecordDict:
    """Say in a summed reply for how many clients it stands, and how many bytes they would have sent."""
    content[STANDS_FOR] = ConfigRecord({"clients": clients, "bytes": num_bytes})
    return content


def stands_for(reply: Message) -> tuple[int, int | None]:
    """Return for how many clients a reply stands, and the bytes that they would have sent (None: its own)."""
    record = reply.content.get(STANDS_FOR) if reply.has_content() else None
    if not isinstance(record, ConfigRecord):
        return 1, None
    return int(str(record["clients"])), int(str(record["bytes"]))
