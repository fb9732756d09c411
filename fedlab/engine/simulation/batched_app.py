"""A ClientApp that can answer for many clients in one call, where that is faster than one by one.

Where the clients of a chunk are asked the same thing and none of them remembers anything, their work is often
one stacked matrix product. The app stays a Flower ClientApp: its ordinary functions answer everywhere else,
and must give the same replies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import RecordDict
from flwr.clientapp import ClientApp

from fedlab.engine.messages.partial_sums import NewSum


@dataclass(frozen=True)
class ClientBatch:
    """Clients that are asked the same thing.

    Attributes:
        content: Content that each of them got.
        partitions: Partition ids of them.
        num_partitions: Size of the whole federation.
        run_config: Config that `context.run_config` shows to each of them.
        partial_sum: Maker of one reply of theirs, where one is asked for.
    """

    content: RecordDict
    partitions: Sequence[int]
    num_partitions: int
    run_config: Mapping[str, Any]
    partial_sum: NewSum | None = None


Together = Callable[[ClientBatch], Sequence[RecordDict] | None]
"""Returns the contents of the replies in the clients' order; None where one by one is better."""
InTotal = Callable[[ClientBatch], tuple[RecordDict, int] | None]
"""Returns the sum of the replies' contents and the bytes that the clients would have sent one by one."""


class BatchedClientApp(ClientApp):
    """A ClientApp with functions for many clients at once, beside those for one.

    Client mods see one message at a time: an app that has some is never asked for many.

    Examples:
        >>> app = BatchedClientApp()
        >>> @app.together("train")
        ... def train_together(batch: ClientBatch) -> list[RecordDict]:
        ...     return [RecordDict() for _ in batch.partitions]
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.modified = bool(kwargs.get("mods") or args[1:])
        self.answers_together: dict[str, Together] = {}
        self.answers_in_total: dict[str, InTotal] = {}

    def together(self, message_type: str) -> Callable[[Together], Together]:
        """Register the function that answers messages of this type for many clients."""
        return lambda function: self.answers_together.setdefault(message_type, function)

    def in_total(self, message_type: str) -> Callable[[InTotal], InTotal]:
        """Register the function that answers with the sum over many clients; used where a sum is asked for."""
        return lambda function: self.answers_in_total.setdefault(message_type, function)
