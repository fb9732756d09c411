"""Statistics as few bytes: the triangle of G, or its factor; the columns of C that are not zero.

    n >= about d/2:  d(d+1)/2 entries of G, as the narrowest integers that hold them (exact mode)
    n <  about d/2:  R of X = QR, n d - n(n-1)/2 entries; R'R = G, so it says what G says and X stays at home

In exact mode G is recovered from R by rounding R'R to the integers it must be, and so bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from fedlab.errors import BadInput
from fedlab.stats.arithmetic.product import energy_of, recoverable
from fedlab.stats.arithmetic.triangle import diagonal_of, flatten, symmetric, triangle_entries, unflatten
from fedlab.stats.gram import GramStats

ORDER = ("shape", "scale", "classes", "class_counts", "cross", "gram", "factor")
"""Names of the packed arrays; 'gram' and 'factor' exclude each other. Weighted sums add 'weighting'."""


def pack(stats: GramStats) -> dict[str, np.ndarray]:
    """Return the statistics as named flat arrays, ready for a Flower ArrayRecord or a safetensors file."""
    d, c = stats.num_features, stats.num_classes
    cross, counts = stats.cross.cpu().numpy(), stats.class_counts.cpu().numpy()
    present = np.flatnonzero((counts != 0) | cross.any(axis=0))
    packed = {"classes": narrow(present), "class_counts": narrow(counts[present]), "cross": narrow(cross.T[present])}
    rows = stats.rows if stats.rows is not None and factor_is_smaller(len(stats.rows), d) else None
    if rows is not None and (stats.scale is None or recoverable(len(rows), energy_of(rows))):  # it keeps every bit
        factor = torch.linalg.qr(rows.cpu(), mode="r").R if len(rows) else rows.cpu()
        packed["factor"], num_rows = flatten(factor.numpy()), len(rows)
    else:
        packed["gram"], num_rows = narrow(flatten(stats.gram.cpu().numpy())), -1
    packed["shape"] = np.array([d, c, num_rows, stats.saturated], dtype=np.int64)
    packed["scale"] = np.array([0.0 if stats.scale is None else stats.scale])
    if stats.weighting is not None:
        packed["weighting"] = np.array(stats.weighting, dtype=np.float64)
    return packed


def unpack(arrays: Mapping[str, np.ndarray], device: torch.device | str = "cpu") -> GramStats:
    """Return the statistics that `pack` packed.

    Raises:
        BadInput: A part is missing, has the wrong size or type, or holds NaN or infinite numbers.
    """
    sums, num_rows = unpack_sums(arrays)
    d = sums.num_features
    rows = matrix = None
    if "factor" in arrays:
        expect("factor", arrays["factor"], factor_entries(num_rows, d))
        rows = unflatten(arrays["factor"], num_rows, d, np.float64)
        if sums.scale:
            _check_factor(rows)
    else:
        matrix = symmetric(unpack_triangle(arrays, sums), d)
    return replace(
        sums,
        cross=sums.cross.to(device),
        class_counts=sums.class_counts.to(device),
        rows=None if rows is None else torch.from_numpy(rows).to(device),
        matrix=None if matrix is None else torch.from_numpy(matrix).to(device),
    )


def unpack_sums(arrays: Mapping[str, np.ndarray]) -> tuple[GramStats, int]:
    """Return packed statistics but for their G, which is zero here, and the rows of their factor; check both."""
    lacking = [name for name in ORDER[:5] if name not in arrays]
    if lacking or ("gram" in arrays) == ("factor" in arrays):
        raise BadInput(f"packed statistics hold {sorted(arrays)}: expected {', '.join(ORDER[:5])} and gram or factor")
    expect("shape", arrays["shape"], 4, "i")
    expect("scale", arrays["scale"], 1)
    d, c, num_rows, saturated = (int(v) for v in arrays["shape"])
    scale = float(arrays["scale"][0])
    if min(d, c) < 1 or saturated < 0 or scale < 0 or ("factor" in arrays and not 0 <= num_rows <= d):
        raise BadInput(
            f"packed statistics name {d} features, {c} classes, {num_rows} rows, {saturated} saturated "
            f"entries and scale {scale}: they cannot be"
        )
    present = arrays["classes"]
    expect("classes", present, present.size, "i")
    check_classes(present, c)
    expect("class_counts", arrays["class_counts"], present.size, "i")
    if (arrays["class_counts"] < 0).any():
        raise BadInput(f"packed statistics count {arrays['class_counts'].tolist()} samples: expected no negative count")
    expect("cross", arrays["cross"], present.size * d, "i" if scale else "if")
    weighting = _weighting(arrays["weighting"], scale) if "weighting" in arrays else None
    cross = np.zeros((d, c), np.int64 if scale else np.float64)
    cross[:, present] = arrays["cross"].reshape(present.size, d).T
    counts = np.zeros(c, np.int64)
    counts[present] = arrays["class_counts"]
    none = torch.zeros(0, d, dtype=torch.float64)
    sums = torch.from_numpy(cross), torch.from_numpy(counts)
    return GramStats(*sums, scale or None, saturated, rows=none, weighting=weighting), num_rows


def unpack_triangle(arrays: Mapping[str, np.ndarray], sums: GramStats) -> np.ndarray:
    """Return the entries of G on and above the diagonal, flat and as narrow as they were sent; check them."""
    flat, d = arrays["gram"], sums.num_features
    expect("gram", flat, triangle_entries(d), "i" if sums.scale else "if")
    if sums.scale and ((squares := flat[diagonal_of(d)]) < 0).any():
        raise BadInput(f"packed statistics: gram has {int(squares.min())} on its diagonal: no sum of squares")
    return flat


def _weighting(array: np.ndarray, scale: float) -> tuple[int, float]:
    expect("weighting", array, 2)
    unit, mass = float(array[0]), float(array[1])
    if unit != 2 ** round(np.log2(max(unit, 1))) or mass < 0 or (not scale and unit != 1):
        raise BadInput(f"packed statistics name {unit} units and {mass} as total weight: they cannot be")
    return int(unit), mass


def _check_factor(rows: np.ndarray) -> None:
    """Refuse R unless R'R consists of integers, by sums of its columns: O(n d), where R'R is O(n d^2)."""
    with np.errstate(over="ignore"):
        squares = np.square(rows).sum(0)
    if recoverable(len(rows), float(squares.max())):
        sums = np.concatenate([rows.T @ (rows @ _probes(rows.shape[1])), squares[:, None]], axis=1)
        if np.abs(sums - sums.round()).max() <= 0.25:
            return
    raise BadInput(
        "packed statistics: factor is none of integers, so it was damaged, or its features were encoded with "
        "another scale: let the client send again"
    )


@lru_cache(maxsize=16)
def _probes(d: int) -> np.ndarray:
    """Return the vectors of Freivalds' check: an entry that is no integer shows in (R'R) v for nearly every one."""
    v = np.random.default_rng(0).integers(0, 2, (d, 4)).astype(np.float64)
    probes = np.concatenate([v, 1 - v], axis=1)  # so that every column of R'R is looked at four times
    probes.setflags(write=False)
    return probes


def narrow(values: np.ndarray) -> np.ndarray:
    """Return them flat, in the narrowest type that loses nothing."""
    flat = values.reshape(-1)
    if flat.dtype.kind == "f":
        return flat
    largest = int(np.abs(flat).max()) if flat.size else 0
    kind = next(k for k in (np.int8, np.int16, np.int32, np.int64) if largest <= np.iinfo(k).max)
    return flat.astype(kind)


def check_classes(present: np.ndarray, c: int) -> None:
    """Refuse what are no classes in rising order."""
    rising = (np.diff(present.astype(np.int64)) > 0).all()
    if present.size and not (rising and present[0] >= 0 and present[-1] < c):
        raise BadInput(f"packed statistics name the classes {present.tolist()}: expected them rising in 0..{c - 1}")


def expect(name: str, array: np.ndarray, size: int, kinds: str = "if") -> None:
    """Refuse an array that is no vector of this many finite numbers of these kinds."""
    if array.shape != (size,):
        raise BadInput(f"packed statistics: {name} has shape {array.shape}, expected ({size},)")
    if array.dtype.kind not in kinds:
        wanted = "integers" if kinds == "i" else "numbers"
        raise BadInput(f"packed statistics: {name} has type {array.dtype}, expected signed {wanted}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadInput(f"packed statistics: {name} contains NaN or infinite numbers")


def factor_entries(n: int, d: int) -> int:
    """Return the number of entries of R that are sent."""
    return n * d - n * (n - 1) // 2


def factor_is_smaller(n: int, d: int) -> bool:
    """Return whether R takes no more room than G: its entries are float64, those of G about half as wide."""
    return 2 * factor_entries(n, d) <= triangle_entries(d)
