import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedlab.engine.records import content_bytes, from_record, to_record


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(6.0).reshape(2, 3).T,
        np.zeros((0, 4), np.float32),
        np.array(7, np.int64),
        np.array([np.nan, np.inf, -0.0]),
        np.array([True, False]),
        np.arange(3, dtype=np.uint8),
    ],
)
def test_arrays_come_back_bit_for_bit(array):
    back = from_record(to_record({"a": array}))["a"]
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_names_keep_their_order_and_arrays_are_the_receivers_own():
    record = to_record({"z": np.zeros(2), "a": np.ones(2)})
    assert list(from_record(record)) == ["z", "a"]
    from_record(record)["z"][:] = 5
    assert from_record(record)["z"].tolist() == [0, 0]


def test_a_message_weighs_what_it_carries():
    arrays = to_record({"w": np.zeros(100)})
    header = len(arrays["w"].data) - 800
    content = RecordDict(
        {
            "arrays": arrays,
            "metrics": MetricRecord({"n": 3, "losses": [0.1, 0.2]}),
            "config": ConfigRecord({"name": "größe", "raw": b"abc", "list": ["ab", "c"], "flag": True}),
        }
    )
    assert content_bytes(content) == (800 + header) + (8 + 16) + (7 + 3 + 3 + 8)
    assert 0 < header <= 128  # the dtype and shape that NumPy writes before the data
    assert content_bytes(RecordDict()) == 0
