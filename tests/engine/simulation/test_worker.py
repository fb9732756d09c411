"""A view of an array in a message is the array, without a copy."""

import pickle

import numpy as np
import pytest
from flwr.app import Array

from fedlab.engine.messages.records import encoded, from_record, to_record, view
from fedlab.engine.simulation.worker import Parcel


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.array(3, dtype=np.int8),
        np.zeros((0, 5), np.float32),
        np.array([1 + 2j], np.complex64),
        np.arange(6, dtype=">i4"),
    ],
)
def test_a_view_is_the_array(array):
    sent = Array(array)
    seen = view(sent)
    assert seen.dtype == array.dtype and np.array_equal(seen, array) and seen.shape == array.shape
    if array.size:
        assert not seen.flags.writeable and np.shares_memory(seen, np.frombuffer(sent.data, np.uint8))


@pytest.mark.parametrize("array", [np.arange(6.0), np.float32(3), np.zeros((0, 2)), np.ones((2, 3), np.int8).T])
def test_encoding_is_flowers_own(array):
    ours, theirs = encoded(np.asarray(array)), Array(np.ascontiguousarray(array).reshape(np.shape(array)))
    assert (ours.dtype, ours.shape, ours.stype, ours.data) == (theirs.dtype, theirs.shape, theirs.stype, theirs.data)


def test_a_parcel_brings_every_reply_as_it_was(grid, ask):
    asked = ask(grid, "who")
    replies = list(grid.stream(asked))
    big, small = np.arange(20_000.0), np.arange(3.0)
    replies[1].content["arrays"] = to_record({"big": big, "small": small})
    answered = [[replies[0]], [replies[1], replies[1]], []]
    buffers = []
    sent = pickle.dumps(Parcel(answered), protocol=5, buffer_callback=buffers.append)
    assert len(sent) < 10_000 and sum(len(b.raw()) for b in buffers) > big.nbytes
    for opened in (pickle.loads(sent, buffers=buffers), pickle.loads(pickle.dumps(Parcel(answered), protocol=5))):
        assert [len(some) for some in opened] == [1, 2, 0]
        for got, wanted in zip([*opened[0], *opened[1]], [replies[0], replies[1], replies[1]], strict=True):
            assert got.metadata.reply_to_message_id == wanted.metadata.reply_to_message_id
            assert got.content == wanted.content
    assert from_record(replies[1].content["arrays"])["big"][-1] == 19_999.0  # what was sent is as it was
