"""Any kind of statistics as named flat arrays, and back: what clients send and files keep.

`GramStats` travel as `packing` has them. Other kinds are built of them, under names with a prefix; the array
'kind' says which kind it is. Everything that arrives is checked as if it came from a stranger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.errors import BadInput
from fedlab.stats.arithmetic.triangle import flatten, symmetric, triangle_entries
from fedlab.stats.class_counts import ClassCounts
from fedlab.stats.gram import GramStats
from fedlab.stats.moments import ClassMoments, WithMoments
from fedlab.stats.noisy import NoisyGram
from fedlab.stats.per_class import PerClass, check_per_class
from fedlab.stats.serialization.packing import check_classes, expect, narrow
from fedlab.stats.serialization.packing import pack as pack_gram
from fedlab.stats.serialization.packing import unpack as unpack_gram

KINDS = {PerClass: 1, ClassCounts: 2, WithMoments: 3, NoisyGram: 4}
"""Numbers of the kinds on the wire; statistics without one are `GramStats`."""
Statistics = GramStats | PerClass | ClassCounts | WithMoments | NoisyGram


def pack(statistics: Statistics) -> dict[str, np.ndarray]:
    """Return statistics of any kind as named flat arrays, ready for a Flower ArrayRecord or safetensors."""
    if isinstance(statistics, GramStats):
        return pack_gram(statistics)
    packed = {"kind": np.array([KINDS[type(statistics)]])}
    if isinstance(statistics, PerClass):
        d, c, saturated = statistics.num_features, statistics.num_classes, statistics.saturated
        packed["shape"] = np.array([d, c, saturated], dtype=np.int64)
        packed["scale"] = np.array([statistics.scale or 0.0])
        for y in statistics.classes:
            packed |= _prefixed(f"{y}", pack_gram(statistics.one(y)))
    elif isinstance(statistics, ClassCounts):
        packed["class_counts"] = narrow(statistics.class_counts.cpu().numpy())
    elif isinstance(statistics, NoisyGram):
        packed |= _pack_noisy(statistics)
    else:
        packed |= _prefixed("sums", pack_gram(statistics.sums))
        packed |= _prefixed("moments", pack_moments(statistics.moments))
    return packed


def unpack(arrays: Mapping[str, np.ndarray], device: torch.device | str = "cpu") -> Any:
    """Return the statistics that `pack` packed.

    Raises:
        BadInput: The kind is unknown, a part is missing, has the wrong size or type, or holds NaN or infinite
            numbers.
    """
    if "kind" not in arrays:
        return unpack_gram(arrays, device)
    kind = int(_of(arrays, "kind", 1, "i")[0])
    if kind == KINDS[PerClass]:
        return _per_class(arrays)
    if kind == KINDS[ClassCounts]:
        counts = _of(arrays, "class_counts", None, "i")
        if not counts.size or (counts < 0).any():
            raise BadInput(f"packed statistics count {counts.tolist()} samples: expected no negative count")
        return ClassCounts(torch.from_numpy(counts.astype(np.int64)))
    if kind == KINDS[WithMoments]:
        sums = unpack_gram(_under(arrays, "sums"), device)
        return WithMoments(sums, _moments(_under(arrays, "moments"), sums, device))
    if kind == KINDS[NoisyGram]:
        return _noisy(arrays)
    raise BadInput(f"packed statistics are of kind {kind}: known are {sorted(KINDS.values())}")


def _per_class(arrays: Mapping[str, np.ndarray]) -> PerClass:
    d, c, saturated = (int(v) for v in _of(arrays, "shape", 3, "i"))
    scale = float(_of(arrays, "scale", 1)[0])
    if min(d, c) < 1 or saturated < 0 or scale < 0:
        raise BadInput(
            f"packed statistics name {d} features, {c} classes, {saturated} saturated entries and scale "
            f"{scale}: they cannot be"
        )
    names = {name.split("/")[0] for name in arrays if "/" in name}
    wrong = [name for name in names if not (name.isdecimal() and str(int(name)) == name and int(name) < c)]
    if wrong:
        raise BadInput(f"packed statistics name the classes {sorted(wrong)}: expected some of 0..{c - 1}")
    classes, sizes = {}, []
    for y in sorted(map(int, names)):
        one = unpack_gram(_under(arrays, str(y)))
        if (one.num_features, one.num_classes, one.scale, one.weighting) != (d, 1, scale or None, None):
            raise BadInput(f"packed statistics: class {y} is not of {d} features and scale {scale}")
        if one.count == 0 or one.saturated:
            raise BadInput(f"packed statistics: class {y} is there without samples, or saturated by itself")
        sizes.append(one.count)
        check_per_class(sizes, d, None)
        classes |= PerClass.of_class(one, y, c).classes
    return PerClass(d, c, classes, scale or None, saturated)


def pack_moments(moments: ClassMoments) -> dict[str, np.ndarray]:
    """Return moments as named flat arrays."""
    present = torch.nonzero(moments.counts)[:, 0].cpu()
    return {
        "shape": np.array(moments.first.shape, dtype=np.int64),
        "classes": narrow(present.numpy()),
        "counts": narrow(moments.counts.cpu()[present].numpy()),
        "first": narrow(moments.first.cpu()[present].numpy()),
        "second": narrow(moments.second.cpu()[present].numpy()),
        "scale": np.array([moments.scale or 0.0]),
    }


def _moments(arrays: Mapping[str, np.ndarray], sums: GramStats, device: torch.device | str) -> ClassMoments:
    c, d0 = (int(v) for v in _of(arrays, "shape", 2, "i"))
    scale, present = float(_of(arrays, "scale", 1)[0]), _of(arrays, "classes", None, "i")
    if c != sums.num_classes or d0 < 1 or scale < 0 or bool(scale) != bool(sums.scale):
        raise BadInput(f"packed moments name {c} classes, {d0} features and scale {scale}: they cannot be")
    check_classes(present, c)
    counts = np.zeros(c, np.int64)
    counts[present] = _of(arrays, "counts", present.size, "i")
    if (counts != sums.class_counts.cpu().numpy()).any():
        raise BadInput(f"packed moments count {counts.tolist()} samples, and the sums other ones")
    parts: list[Tensor] = []
    for name in ("first", "second"):
        part = np.zeros((c, d0), np.int64 if scale else np.float64)
        flat = _of(arrays, name, present.size * d0, "i" if scale else "if")
        part[present] = flat.reshape(present.size, d0)
        parts.append(torch.from_numpy(part).to(device))
    if bool((parts[1] < 0).any()):
        raise BadInput("packed moments: second holds a negative sum of squares")
    return ClassMoments(torch.from_numpy(counts).to(device), parts[0], parts[1], scale or None)


def _pack_noisy(statistics: NoisyGram) -> dict[str, np.ndarray]:
    # Sizes and types follow from d, c and the mode alone, and so tell nothing of the samples.
    return {
        "shape": np.array([statistics.num_features, statistics.num_classes], dtype=np.int64),
        "scale": np.array([statistics.scale or 0.0]),
        "variance": np.array([statistics.gram_variance, statistics.cross_variance]),
        "gram": flatten(statistics.gram.cpu().numpy()),
        "cross": statistics.cross.cpu().numpy().reshape(-1),
    }


def _noisy(arrays: Mapping[str, np.ndarray]) -> NoisyGram:
    d, c = (int(v) for v in _of(arrays, "shape", 2, "i"))
    scale, variances = float(_of(arrays, "scale", 1)[0]), _of(arrays, "variance", 2).tolist()
    if min(d, c) < 1 or scale < 0 or min(variances) < 0:
        raise BadInput(
            f"packed noisy statistics name {d} features, {c} classes, scale {scale} and variances {variances}: "
            "they cannot be"
        )
    kinds, kind = ("i", np.int64) if scale else ("f", np.float64)
    gram = symmetric(_of(arrays, "gram", triangle_entries(d), kinds), d)
    cross = _of(arrays, "cross", d * c, kinds).reshape(d, c).astype(kind)
    return NoisyGram(torch.from_numpy(gram), torch.from_numpy(cross), scale or None, *map(float, variances))


def _prefixed(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    start = len(prefix) + 1
    return {name[start:]: array for name, array in arrays.items() if name.startswith(f"{prefix}/")}


def _of(arrays: Mapping[str, np.ndarray], name: str, size: int | None, kinds: str = "if") -> np.ndarray:
    """Return an array of this many numbers (None: any) of these kinds; refuse another, or none."""
    if name not in arrays:
        raise BadInput(f"packed statistics hold {sorted(arrays)[:7]}: {name} is missing")
    expect(name, arrays[name], arrays[name].size if size is None else size, kinds)
    return arrays[name]
