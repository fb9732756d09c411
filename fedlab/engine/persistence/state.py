"""What an object remembers, as named arrays and a JSON tree, and back again: no pickle, no code is run.

    tree, arrays, left_out = pack({"strategy": strategy})       unpack(tree, arrays, {"strategy": strategy})

Numbers, texts, arrays, tensors, Flower's records, random generators and containers of them travel by value,
frozen dataclasses too. Any other object is written by its attributes (or by its `state_dict`) and put back
into the object that is there already: the config constructs a strategy, a checkpoint only reminds it.
"""

from __future__ import annotations

import functools
import logging
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedlab.errors import BadInput

KIND = "$"
"""The key under which a node of the tree says what it is."""

_SEQUENCES = {kind.__name__: kind for kind in (list, tuple, set, frozenset, deque)}
_MAPPINGS = {kind.__name__: kind for kind in (dict, OrderedDict, ArrayRecord, MetricRecord, ConfigRecord, RecordDict)}
_STORABLE = {np.dtype(kind) for kind in "?bBhHiIqQefd"}
_CONSTANT = (
    *(ModuleType, type, FunctionType, BuiltinFunctionType, MethodType, functools.partial),
    *(logging.Logger, Grid),
)
"""What no checkpoint has to keep: it is the same in every process that has the same config."""


def pack(state: Mapping[str, Any]) -> tuple[Any, dict[str, np.ndarray], list[str]]:
    """Return the tree, the arrays by their place in it, and the places whose values could not be written."""
    packer = _Packer()
    return packer.pack(dict(state), ""), packer.arrays, packer.left_out


def unpack(tree: Any, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was packed; objects of `state` are changed in place.

    Raises:
        BadInput: An object that was written is not there, or is of another type.
    """
    return _unpack(tree, arrays, dict(state))


class _Packer:
    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.left_out: list[str] = []
        self._open: set[int] = set()  # objects on the way here: one that holds itself is written once

    def pack(self, value: Any, where: str) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        kind = type(value)
        if _SEQUENCES.get(kind.__name__) is kind:
            items = [self.pack(item, f"{where}.{index}") for index, item in enumerate(value)]
            return {KIND: kind.__name__, "items": items}
        if _MAPPINGS.get(kind.__name__) is kind:
            items = [[self.pack(k, f"{where}.key"), self.pack(v, f"{where}.{k}")] for k, v in value.items()]
            return {KIND: kind.__name__, "items": items}
        if isinstance(value, (np.ndarray, np.generic)):
            return self._array(value, where)
        if isinstance(value, Array):
            return {KIND: "Array", "value": self._array(value.numpy(), where)}
        if isinstance(value, torch.Tensor):
            return {KIND: "tensor", **self._tensor(value.detach(), where)}
        if isinstance(value, (bytes, bytearray)):
            data = np.frombuffer(value, np.uint8)
            return {KIND: kind.__name__, "value": self._array(data, where)}
        if isinstance(value, Path):
            return {KIND: "path", "value": str(value)}
        if isinstance(value, Enum):
            return {KIND: "enum", "class": _name(kind), "value": value.name}
        if (own := _own_state(value)) is not None:
            return {KIND: "object", "class": _name(kind), "told": self.pack(own, where)}
        if isinstance(value, _CONSTANT) or id(value) in self._open:
            return {KIND: "constant"}
        if not (is_dataclass(value) or hasattr(value, "__dict__")):
            self.left_out.append(where.removeprefix("."))
            return {KIND: "constant"}
        self._open.add(id(value))
        items = {name: self.pack(item, f"{where}.{name}") for name, item in _attributes(value)}
        self._open.remove(id(value))
        return {KIND: "object", "class": _name(kind), "attributes": items}

    def _array(self, value: np.ndarray | np.generic, where: str) -> Any:
        array = np.asarray(value)
        if array.dtype.hasobject:
            self.left_out.append(where.removeprefix("."))
            return {KIND: "constant"}
        node: dict[str, Any] = {KIND: "scalar" if isinstance(value, np.generic) else "array"}
        if array.flags.f_contiguous and not array.flags.c_contiguous:
            node["order"] = "F"  # a product of a transposed matrix may round otherwise
        if array.dtype not in _STORABLE:
            node |= {"dtype": array.dtype.str, "shape": array.shape}
            array = np.frombuffer(array.tobytes(), np.uint8)
        node["key"] = self._key(where)
        self.arrays[node["key"]] = np.asarray(array, order="C")  # safetensors writes the memory as it lies
        return node

    def _tensor(self, value: torch.Tensor, where: str) -> dict[str, Any]:
        bits = value.cpu()
        if value.dtype is torch.bfloat16:
            bits = bits.view(torch.int16)
        return {"device": str(value.device), "dtype": str(value.dtype), "value": self._array(bits.numpy(), where)}

    def _key(self, where: str) -> str:
        key = where.removeprefix(".")
        while key in self.arrays:  # a key may itself hold a dot
            key += "'"
        return key


def _unpack(node: Any, arrays: Mapping[str, np.ndarray], now: Any) -> Any:
    """Return the value of a node; `now` is what stands in its place, and stays if it is an object."""
    if not isinstance(node, dict):
        return node
    kind = node[KIND]
    if kind == "constant":
        return now
    if kind in _SEQUENCES:
        here = list(now) if isinstance(now, (list, tuple, deque)) else []
        here += [None] * (len(node["items"]) - len(here))
        pairs = zip(node["items"], here, strict=False)
        return _SEQUENCES[kind](_unpack(item, arrays, old) for item, old in pairs)
    if kind in _MAPPINGS:
        pairs = ((_unpack(key, arrays, None), value) for key, value in node["items"])
        here = now if isinstance(now, Mapping) else {}
        return _MAPPINGS[kind]({key: _unpack(value, arrays, here.get(key)) for key, value in pairs})
    if kind in ("array", "scalar"):
        array = arrays[node["key"]]
        if "dtype" in node:
            array = np.frombuffer(array.tobytes(), node["dtype"]).reshape(node["shape"])
        array = np.array(array, order=node.get("order", "C"))  # a copy that may be written to
        return array[()] if kind == "scalar" else array
    if kind == "path":
        return Path(node["value"])
    if kind == "enum":
        return _class(node["class"], now)[node["value"]]
    if kind == "object":
        return _object(node, arrays, now)
    value = _unpack(node["value"], arrays, None)
    if kind == "Array":
        return Array(value)
    if kind == "tensor":
        tensor = torch.from_numpy(value).view(getattr(torch, node["dtype"].removeprefix("torch.")))
        return tensor.to(node["device"])
    return {"bytes": bytes, "bytearray": bytearray}[kind](value.tobytes())


def _object(node: dict[str, Any], arrays: Mapping[str, np.ndarray], now: Any) -> Any:
    same = _name(type(now)) == node["class"]
    if "told" in node:
        if not same:
            raise _changed(node["class"], now)
        _set_state(now, _unpack(node["told"], arrays, _own_state(now)))
        return now
    if not same or _frozen(now):
        kind = _class(node["class"], now)
        if not (isinstance(kind, type) and is_dataclass(kind)):
            raise _changed(node["class"], now)
        return kind(**{name: _unpack(item, arrays, None) for name, item in node["attributes"].items()})
    for name, item in node["attributes"].items():
        setattr(now, name, _unpack(item, arrays, getattr(now, name, None)))
    return now


def _frozen(value: Any) -> bool:
    return is_dataclass(value) and value.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    if is_dataclass(value):  # what it was made of, not what it worked out since
        return ((field.name, getattr(value, field.name)) for field in fields(value) if field.init)
    return iter(vars(value).items())


def _own_state(value: Any) -> Any:
    """Return what an object that knows its own state says of it; None if it is no such object."""
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, random.Random):
        return pack_random(value.getstate())
    if isinstance(value, torch.Generator):
        return value.get_state()
    if callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None)):
        return value.state_dict()
    return None


def _set_state(value: Any, state: Any) -> None:
    if isinstance(value, np.random.Generator):
        value.bit_generator.state = state
    elif isinstance(value, random.Random):
        value.setstate(unpack_random(state))
    elif isinstance(value, torch.Generator):
        value.set_state(state)
    else:
        value.load_state_dict(state)


def pack_random(state: Any) -> tuple[Any, ...]:
    """Return a state of Python's generator with its 625 words as one array."""
    version, words, gauss = state
    return version, np.array(words, np.uint32), gauss


def unpack_random(state: Any) -> tuple[Any, ...]:
    """Return what `random.setstate` takes."""
    version, words, gauss = state
    return version, tuple(words.tolist()), gauss


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _class(name: str, now: Any) -> Any:
    """Return a class that this process has loaded already: a checkpoint imports nothing."""
    module, _, path = name.partition(":")
    kind: Any = sys.modules.get(module)
    for part in path.split("."):
        kind = getattr(kind, part, None)
    if not isinstance(kind, type):
        raise _changed(name, now)
    return kind


def _changed(name: str, now: Any) -> BadInput:
    return BadInput(
        f"the checkpoint holds a {name.rpartition(':')[2]} where this run has a {type(now).__name__}: start "
        "a new run if the code has changed; of what a strategy makes on its way only dataclasses come back"
    )
