"""Replies of a deployment, one by one as they come: Flower's own Grid returns them all together, at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

PAUSE = 0.5
"""Seconds between two looks; a SuperNode looks for messages every 3."""


def stream(grid: Grid, messages: Sequence[Message], timeout: float | None = None) -> Iterator[Message]:
    """Send messages and yield each reply when it is there.

    Parameters
    ----------
    grid
        Flower's.
    messages
        What is sent; a sequence, for Flower walks it twice.
    timeout
        Seconds; replies that come later are left out. None waits for all.
    """
    deadline = float("inf") if timeout is None else time.monotonic() + timeout
    asked = set(grid.push_messages(messages))
    while asked:
        for reply in grid.pull_messages(asked):
            asked.discard(reply.metadata.reply_to_message_id)
            yield reply
        if asked and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(PAUSE, left))
        elif asked:
            return
