"""Replies on their way out of a worker: their numbers travel beside the pickle, not through it.

A pickle would copy an array's bytes into itself, and the reader out of it again. As buffers beside it, Ray writes
them into shared memory once, and the reader takes them from there.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from typing import Any

from flwr.app import Array, ArrayRecord, Message

from fedlab.engine.messages.records import records_of

LARGE = 2**16
"""Bytes from which an array travels by itself; for smaller ones that costs more than it saves."""
Place = tuple[int, str, str]
"""Position of a message, name of a record, name of an array."""


class Parcel:
    """Lists of replies, as a worker returns them; unpickled, it is those lists.

    Parameters
    ----------
    answered
        The replies, in lists.
    """

    def __init__(self, answered: Sequence[Sequence[Message]]):
        self.answered = [list(replies) for replies in answered]

    def __reduce__(self) -> tuple[Any, ...]:
        counts = [len(replies) for replies in self.answered]
        light: list[Message] = []
        places: list[Place] = []
        buffers: list[pickle.PickleBuffer] = []
        for replies in self.answered:
            for message in replies:
                light.append(_lightened(message, len(light), places, buffers))
        return _opened, (counts, light, places, buffers)


def _lightened(
    message: Message, position: int, places: list[Place], buffers: list[pickle.PickleBuffer]
) -> Message:
    """Return the message without its large arrays, which are noted; a message is not changed."""
    if not message.has_content():
        return message
    content = None
    for name, record in records_of(message.content, ArrayRecord).items():
        large = {key: array for key, array in record.items() if len(array.data) >= LARGE}
        if not large:
            continue
        content = content or message.content.copy()
        lighter = dict(record)
        for key, array in large.items():
            places.append((position, name, key))
            buffers.append(pickle.PickleBuffer(array.data))
            lighter[key] = Array(array.dtype, array.shape, array.stype, b"")
        content[name] = ArrayRecord(lighter)
    if content is None:
        return message
    lightened = copy.copy(message)
    lightened.content = content
    return lightened


def _opened(
    counts: list[int], light: list[Message], places: list[Place], buffers: list[Any]
) -> list[list[Message]]:
    for (position, name, key), buffer in zip(places, buffers, strict=True):
        record = records_of(light[position].content, ArrayRecord)[name]
        array = record[key]
        record[key] = Array(array.dtype, array.shape, array.stype, bytes(buffer))
    replies = iter(light)
    return [[next(replies) for _ in range(count)] for count in counts]
