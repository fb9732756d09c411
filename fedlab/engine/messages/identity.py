"""The one place that touches Flower's private metadata: who sends, and under which message id.

Flower lets only its own processes create messages: `Message(...)` reads a process-wide task identity, and a
message's id is written by the SuperLink. A Grid that replaces the SuperLink has to do both. A test fails
loudly when Flower moves them.
"""

from __future__ import annotations

import copy
import uuid

from flwr.app import ArrayRecord, Message
from flwr.supercore.task_identity import TaskIdentity

SERVER_NODE = 1
"""Flower's id of the SuperLink; errors made by the infrastructure carry it as their source."""
FIRST_CLIENT_NODE = 2


def become(run_id: int, node_id: int) -> None:
    """Let this process create messages as `node_id`."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, node_id, node_id


def fresh_id() -> str:
    """Return an id that no other message has."""
    return uuid.uuid4().hex


def stamp(message: Message, message_id: str | None = None) -> str:
    """Give the message an id, as the SuperLink would, and return it."""
    message_id = message_id or fresh_id()
    message.metadata.__dict__["_message_id"] = message_id
    return message_id


def private_copy(message: Message) -> Message:
    """Return a message whose records a client may change: strategies share one RecordDict among many."""
    received, content = copy.copy(message), message.content.copy()
    for name, record in content.items():
        content[name] = own = record.copy()
        if not isinstance(own, ArrayRecord):  # arrays are immutable bytes, lists are not
            for key, value in own.items():
                if isinstance(value, list):
                    own[key] = copy.copy(value)  # pyright: ignore[reportArgumentType]
    received.__dict__["_content"] = content
    return received
