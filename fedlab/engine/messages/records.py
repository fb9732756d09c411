"""Named NumPy arrays to Flower records and back, and what a message weighs."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import SType

Layout = Mapping[str, tuple[tuple[int, ...], np.dtype]]
"""Names of a model's arrays with their shapes and types."""
Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)
WEIGHT = "num-examples"
"""The metric by which a client says how many samples its reply stands for."""


def to_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Return an ArrayRecord of these arrays."""
    return ArrayRecord({name: encoded(array) for name, array in arrays.items()})


def encoded(array: np.ndarray) -> Array:
    """Return what `Array(array)` returns, with one copy of the numbers in place of Flower's four."""
    array = np.asarray(array, order="C")
    numbers = array.reshape(-1).view(np.uint8).data if array.size else b""
    data = b"".join((_header(array.shape, array.dtype), numbers))
    return Array(str(array.dtype), tuple(array.shape), SType.NUMPY, data)


@lru_cache(maxsize=1024)  # the arrays of a thousand clients have one shape
def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def from_record(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Return the arrays of an ArrayRecord: copies, which are the caller's own."""
    return {name: np.array(array) for name, array in views(record).items()}


def records_of(content: RecordDict, kind: type[Record]) -> dict[str, Record]:
    """Return the records of one kind by name.

    Flower's own views (`content.array_records`, ...) refer to themselves, so what they have shown, megabytes of
    each reply, is freed only when the garbage collector comes by.
    """
    return {name: record for name, record in content.items() if isinstance(record, kind)}


def view(array: Array) -> np.ndarray:
    """Return a read-only view of an array's numbers, where they lie in the message; any other format is decoded."""
    data = array.data
    try:
        shape, fortran_order, dtype, start = _described(data[: 10 + int.from_bytes(data[8:10], "little")])
        flat = np.frombuffer(data, dtype, offset=start)
        return flat.reshape(shape, order="F" if fortran_order else "C")
    except (ValueError, KeyError):
        return array.numpy()


@lru_cache(maxsize=1024)
def _described(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Read a header of format 1.0, with its length in bytes 8 and 9; any other is a ValueError."""
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, fortran_order, dtype, len(header)


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of a model: names, types, shapes and bytes."""
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha.update(repr((name, array.dtype.str, array.shape)).encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def views(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Return read-only views of the arrays of an ArrayRecord: for sums, which need no copy."""
    return {name: view(array) for name, array in record.items()}


def layout_of(record: ArrayRecord) -> Layout:
    """Return what the arrays of a record look like."""
    return {name: (tuple(array.shape), np.dtype(array.dtype)) for name, array in record.items()}


def unlike(model: Layout, arrays: Mapping[str, np.ndarray]) -> str | None:
    """Return what tells arrays from a trained model of this layout; None if nothing does.

    Only float arrays are trained; what else a model holds needs no more than its name.
    """
    if list(arrays) != list(model):
        return f"it holds the arrays {sorted(arrays)}, the model has {sorted(model)}"
    for name, (shape, dtype) in model.items():
        if dtype.kind != "f":
            continue
        got = arrays[name]
        if (got.shape, got.dtype) != (shape, dtype):
            return f"{name} is {got.dtype}{list(got.shape)}, the model's is {dtype}{list(shape)}"
        if not np.isfinite(got).all():
            return f"{name} holds NaN or infinite numbers: it was damaged, or local training diverged"
    return None


def round_of(message: Message) -> int | None:
    """Return the round that a strategy of Flower's writes into its messages; None where it does not say."""
    records = records_of(message.content, ConfigRecord) if message.has_content() else {}
    numbers = (record.get("server-round") for record in records.values())
    return next((number for number in numbers if isinstance(number, int)), None)


def content_bytes(content: RecordDict) -> int:
    """Return the bytes a message carries: arrays as serialised, 8 per number, text as UTF-8."""
    return sum(_value_bytes(value) for record in content.values() for value in record.values())


def _value_bytes(value: object) -> int:
    if isinstance(value, Array):
        return len(value.data)
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, list):
        return sum(_value_bytes(item) for item in value)
    return 8
