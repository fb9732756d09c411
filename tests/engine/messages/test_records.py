import gc
import io
import resource
import weakref

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedlab.engine.messages.partial_sums import ArraySum
from fedlab.engine.messages.records import content_bytes, from_record, records_of, to_record, view
from fedlab.engine.simulation.allocator import keep_freed_memory


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


def test_a_reply_that_was_added_is_freed_at_once():
    # Not when the garbage collector comes by: until then a round of large replies would pile up.
    content = RecordDict({"arrays": to_record({"a": np.ones(3)}), "metrics": MetricRecord({"n": 1})})
    record = weakref.ref(content["arrays"])
    gc.disable()
    try:
        ArraySum().add(content)
        assert records_of(content, ArrayRecord).keys() == {"arrays"}
        assert records_of(content, ConfigRecord) == {}
        del content
        assert record() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_where_they_lie_in_any_format(version, order):
    array = np.asarray(np.arange(6.0).reshape(2, 3), order=order)
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    assert np.array_equal(view(Array("float64", (2, 3), "numpy.ndarray", file.getvalue())), array)


def test_memory_that_is_freed_stays_with_the_process():
    keep_freed_memory()
    np.full(2**18, 1.0)  # 2 MB, which are the process's own from now on
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.full(2**18, 1.0)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < 20 * 512 / 2, faults  # each would fault in its 512 pages again
