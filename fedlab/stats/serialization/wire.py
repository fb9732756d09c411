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
from fedlab.stats.gram import GramStats
from fedlab.stats.moments import ClassMoments, WithMoments
from fedlab.stats.noisy import NoisyGram, pack_noisy, unpack_noisy
from fedlab.stats.per_class import ClassCounts, PerClass, check_per_class
from fedlab.stats.serialization.packing import ORDER, expect, narrow
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
        packed |= pack_noisy(statistics)
    else:
        packed |= _prefixed("sums", pack_gram(statistics.sums))
        packed |= _prefixed("moments", pack_moments(statistics.moments))
    return packed


def unpack(arrays: Mapping[str, np.ndarray], device: torch.device | str = "cpu") -> Any:
    """Return the statistics that `pack` packed.

    Raises
    ------
    BadInput
        The kind is unknown, a part is missing, has the wrong size or type, or holds NaN or infinite numbers.
    """
    if "kind" not in arrays:
        return unpack_gram(arrays, device)
    expect("kind", arrays["kind"], 1, "i")
    kind = int(arrays["kind"][0])
    if kind == KINDS[PerClass]:
        return _per_class(arrays)
    if kind == KINDS[ClassCounts]:
        counts = _of(arrays, "class_counts")
        expect("class_counts", counts, counts.size, "i")
        if not counts.size or (counts < 0).any():
            raise BadInput(f"packed statistics count {counts.tolist()} samples: expected no negative count")
        return ClassCounts(torch.from_numpy(counts.astype(np.int64)))
    if kind == KINDS[WithMoments]:
        sums = unpack_gram(_under(arrays, "sums"), device)
        return WithMoments(sums, _moments(_under(arrays, "moments"), sums, device))
    if kind == KINDS[NoisyGram]:
        return unpack_noisy(arrays)
    raise BadInput(f"packed statistics are of kind {kind}: known are {sorted(KINDS.values())}")


def _per_class(arrays: Mapping[str, np.ndarray]) -> PerClass:
    shape, unit = _of(arrays, "shape"), _of(arrays, "scale")
    expect("shape", shape, 3, "i")
    expect("scale", unit, 1)
    d, c, saturated = (int(v) for v in shape)
    scale = float(unit[0])
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
    lacking = [n for n in ("shape", "classes", "counts", "first", "second", "scale") if n not in arrays]
    if lacking:
        raise BadInput(f"packed moments lack {', '.join(lacking)}")
    expect("shape", arrays["shape"], 2, "i")
    expect("scale", arrays["scale"], 1)
    c, d0, scale = (*(int(v) for v in arrays["shape"]), float(arrays["scale"][0]))
    present = arrays["classes"]
    expect("classes", present, present.size, "i")
    rising = (np.diff(present.astype(np.int64)) > 0).all()
    if c != sums.num_classes or d0 < 1 or scale < 0 or bool(scale) != bool(sums.scale):
        raise BadInput(f"packed moments name {c} classes, {d0} features and scale {scale}: they cannot be")
    if present.size and not (rising and present[0] >= 0 and present[-1] < c):
        raise BadInput(f"packed moments name the classes {present.tolist()}: expected them in 0..{c - 1}")
    counts = np.zeros(c, np.int64)
    expect("counts", arrays["counts"], present.size, "i")
    counts[present] = arrays["counts"]
    if (counts != sums.class_counts.cpu().numpy()).any():
        raise BadInput(f"packed moments count {counts.tolist()} samples, and the sums other ones")
    kind = np.int64 if scale else np.float64
    parts: list[Tensor] = []
    for name in ("first", "second"):
        expect(name, arrays[name], present.size * d0, "i" if scale else "if")
        part = np.zeros((c, d0), kind)
        part[present] = arrays[name].reshape(present.size, d0)
        parts.append(torch.from_numpy(part).to(device))
    if bool((parts[1] < 0).any()):
        raise BadInput("packed moments: second holds a negative sum of squares")
    return ClassMoments(torch.from_numpy(counts).to(device), parts[0], parts[1], scale or None)


def _prefixed(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    start = len(prefix) + 1
    return {name[start:]: array for name, array in arrays.items() if name.startswith(f"{prefix}/")}


def _of(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in arrays:
        raise BadInput(f"packed statistics hold {sorted(arrays)[: len(ORDER)]}: {name} is missing")
    return arrays[name]
