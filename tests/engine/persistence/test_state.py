"""Packing and unpacking: every value comes back with its type and its bits, objects where they were."""

import json
import random
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from fedlab.engine.persistence.state import pack, unpack
from fedlab.errors import BadInput
from fedlab.stats import GramStats, one_hot


class Colour(Enum):
    RED = 1


@dataclass(frozen=True)
class Value:
    weight: torch.Tensor
    note: str = "fine"


@dataclass
class Count:
    n: int = 0
    seen: list[int] = field(default_factory=list)


class Plain:
    """Holds whatever it is given."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Knowing:
    """Says its own state."""

    def __init__(self, secret):
        self._secret = secret
        self.lock = threading.Lock()

    def state_dict(self):
        return {"secret": self._secret}

    def load_state_dict(self, state):
        self._secret = state["secret"]


def through(state, into):
    """Pack, write as a file would be, read, unpack."""
    tree, arrays, left_out = pack(state)
    data = save(arrays, {"tree": json.dumps(tree)})
    return unpack(json.loads(json.dumps(tree)), load(data), into), left_out


def again(value):
    back, left_out = through({"value": value}, {})
    assert left_out == []
    return back["value"]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
NESTED = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.lists(inner).map(deque)
    ),
    max_leaves=10,
)


@settings(max_examples=40)
@given(NESTED)
def test_plain_values_come_back_equal_and_of_the_same_types(value):
    back = again(value)
    assert back == value and repr(back) == repr(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).astype(kind).reshape(2, 3)
        for kind in ("?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", ">f8", "c16", "U3", "datetime64[s]")
    ]
    + [np.zeros((0, 3)), np.array(2.5), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(9.0)[::2]],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_arrays_keep_type_shape_order_and_bits(array):
    back = again(array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes("A") == array.tobytes("A") and back.flags.writeable
    assert back.flags.f_contiguous or not array.flags.f_contiguous


def test_numpy_scalars_stay_numpy_scalars():
    # float32 array * np.float64 is float64, float32 array * float is float32: the type is part of the bits.
    assert type(again(np.float64(0.1))) is np.float64 and type(again(0.1)) is float
    assert type(again(np.int32(3))) is np.int32


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_keep_type_and_bits(kind):
    tensor = torch.arange(6).reshape(2, 3).to(kind)
    back = again(tensor)
    assert back.dtype == kind and torch.equal(back, tensor)


def test_flowers_records_come_back():
    record = RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(np.arange(3.0)), "b.c": Array(np.array([1], np.float16))}),
            "metrics": MetricRecord({"loss": 0.5, "n": 3, "list": [1.0, float("inf")]}),
            "config": ConfigRecord({"name": "x", "flag": True, "raw": b"\x00\xff"}),
        }
    )
    assert again(record) == record


def test_other_values_come_back():
    ordered = OrderedDict(b=1, a={2, 3})
    assert again(ordered) == ordered and list(again(ordered)) == ["b", "a"]
    assert again(Path("a/b")) == Path("a/b")
    assert again(Colour.RED) is Colour.RED
    assert np.isnan(again(float("nan")))


def test_keys_that_look_like_places_do_not_meet():
    value = {"a.b": np.array([1]), "a": {"b": np.array([2])}}
    back = again(value)
    assert (back["a.b"][0], back["a"]["b"][0]) == (1, 2)


def test_statistics_come_back_to_the_bit():
    x, y = torch.randn(300, 8).double(), one_hot(torch.arange(300) % 3, num_classes=3)
    statistics = GramStats.from_batch(x, y)
    assert again(statistics).sha256 == statistics.sha256


def test_generators_go_on_where_they_were():
    makers = (lambda: random.Random(1), lambda: np.random.default_rng(1), lambda: torch.Generator().manual_seed(1))
    draws = (lambda g: g.random(), lambda g: float(g.normal()), lambda g: float(torch.rand(1, generator=g)))
    for make, draw in zip(makers, draws, strict=True):
        former, fresh = make(), make()
        draw(former)
        through({"g": former}, {"g": fresh})
        assert draw(fresh) == draw(former)


def test_an_object_is_changed_where_it_stands_and_keeps_what_cannot_be_written():
    step = {"m": np.arange(3.0)}
    former = Plain(
        m_t=step, inner=Plain(rounds=7), function=len, knowing=Knowing(3), count=Count(2, [1]), lock=threading.Lock()
    )
    here = Plain(
        m_t=None, inner=Plain(rounds=0), function=max, knowing=Knowing(0), count=Count(), lock=threading.Lock()
    )
    inner, knowing, count, lock = here.inner, here.knowing, here.count, here.lock
    back, left_out = through({"strategy": former}, {"strategy": here})
    assert back["strategy"] is here and left_out == ["strategy.lock"]
    assert here.inner is inner and inner.rounds == 7
    assert here.knowing is knowing and knowing.state_dict() == {"secret": 3}
    assert here.count is count and count == Count(2, [1])
    assert here.lock is lock and here.function is max
    assert here.m_t["m"].tolist() == [0, 1, 2]


def test_what_holds_itself_is_written_once():
    former, here = Plain(n=1), Plain(n=0)
    former.me, here.me = former, here
    through({"a": former}, {"a": here})
    assert here.n == 1 and here.me is here


def test_an_object_that_is_not_there_is_refused_by_name():
    made = through({"a": Plain(x=Value(torch.ones(2)))}, {"a": Plain(x=None)})[0]["a"]
    assert isinstance(made.x, Value) and made.x.weight.sum() == 2
    with pytest.raises(BadInput, match=r"holds a Plain where this run has a NoneType: .* only dataclasses"):
        through({"a": Plain(x=Plain())}, {"a": Plain(x=None)})
    with pytest.raises(BadInput, match="holds a Knowing where this run has a Plain"):
        through({"a": Knowing(1)}, {"a": Plain()})
