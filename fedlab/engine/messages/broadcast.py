"""One content to many nodes: a sequence of messages that are made when they are looked at.

A strategy that asks a million nodes the same thing returns one of these instead of a million messages; to
anyone who iterates, Flower's own Grid included, it is a list of messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from flwr.app import Message, RecordDict

from fedlab.engine.messages.identity import stamp


class Broadcast(Sequence[Message]):
    """Messages to `nodes`, all with the same content.

    Args:
        content: Content of every message.
        nodes: Node ids, in the order of the messages.
        message_type: Type: 'train', 'evaluate' or 'query', with an action after a dot.
        group_id: Group of every message.
        name: Name that the messages' ids begin with; empty until they are sent.

    Examples:
        >>> from fedlab.engine.messages.identity import become
        >>> become(run_id=1, node_id=1)
        >>> messages = Broadcast(RecordDict(), range(2, 1_000_002), "train")
        >>> len(messages), messages[-1].metadata.dst_node_id
        (1000000, 1000001)
    """

    def __init__(
        self,
        content: RecordDict,
        nodes: Sequence[int] | np.ndarray,
        message_type: str,
        group_id: str = "",
        name: str = "",
    ):
        self.content, self.message_type, self.group_id = content, message_type, group_id
        self.nodes = nodes if isinstance(nodes, np.ndarray) else _array(nodes)
        self.name = name

    def __len__(self) -> int:
        return len(self.nodes)

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Broadcast: ...
    def __getitem__(self, index: int | slice) -> Message | Broadcast:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        node = int(self.nodes[index])
        message = Message(self.content, node, self.message_type, group_id=self.group_id)
        if self.name:
            stamp(message, f"{self.name}-{node}")
        return message

    def take(self, indices: np.ndarray) -> Broadcast:
        """Return the messages at these places."""
        return Broadcast(self.content, self.nodes[indices], self.message_type, self.group_id, self.name)

    def named(self, name: str) -> Broadcast:
        """Return the same messages with ids, as they are sent."""
        return Broadcast(self.content, self.nodes, self.message_type, self.group_id, name)


def take(messages: Sequence[Message], indices: np.ndarray) -> Sequence[Message]:
    """Return the messages at these places."""
    return messages.take(indices) if isinstance(messages, Broadcast) else [messages[i] for i in indices]


def nodes_of(messages: Sequence[Message]) -> np.ndarray:
    """Return the destination of every message, (m,) int64."""
    if isinstance(messages, Broadcast):
        return messages.nodes
    return np.array([message.metadata.dst_node_id for message in messages], dtype=np.int64)


def _array(nodes: Sequence[int]) -> np.ndarray:
    try:
        return np.asarray(nodes, dtype=np.int64)
    except OverflowError:  # a deployment's ids are random in 64 bits without a sign
        return np.asarray(nodes, dtype=np.uint64)
