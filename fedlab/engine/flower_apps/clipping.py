"""Whether a client has clipped its update, as Flower's client-side differential privacy trusts it to.

    ‖reply − model‖ ≤ clipping norm

The strategy writes the norm into its messages; a mod on the client's side clips. Without the mod nothing does,
and nobody says so: noise is added for a norm that does not hold.
"""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM

from fedlab.engine.messages.records import records_of

SLACK = 1e-3
"""Of the norm; clipping multiplies in the model's own precision."""


def excess(message: Message, reply: Message) -> tuple[float, float] | None:
    """Return (norm of the update, clipping norm) where the reply to a model goes beyond the norm that came with it.

    None where the message has no norm, nothing comparable came back, or the update is within the norm.
    """
    norms = [record.get(KEY_CLIPPING_NORM) for record in records_of(message.content, ConfigRecord).values()]
    norm = next((value for value in norms if isinstance(value, float)), None)
    if norm is None or reply.has_error():
        return None
    models = [list(records_of(one.content, ArrayRecord).values()) for one in (message, reply)]
    if [len(records) for records in models] != [1, 1]:
        return None
    before, after = (_flat(records[0]) for records in models)
    if before.shape != after.shape:
        return None
    moved = float(np.linalg.norm(after - before))
    rounding = 4 * float(np.finfo(np.float32).eps) * float(np.linalg.norm(before))
    return (moved, norm) if not moved <= norm * (1 + SLACK) + rounding else None  # NaN is beyond every norm


def _flat(record: ArrayRecord) -> np.ndarray:
    """Return all numbers of a model in float64, (n,)."""
    return np.concatenate([array.numpy().ravel().astype(np.float64) for array in record.values()] or [[]])
