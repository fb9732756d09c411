"""A dataset is two splits that share their classes, checked once and known by a fingerprint.

fingerprint = SHA-256(kind, classes, train, test)

Everything downstream (feature caches, exact statistics) trusts what a `Dataset` holds, so a broken input is
refused here, where the split and the row can still be named. The fingerprint covers contents and split: two
seeds that hold out different rows never share cached features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedlab import checks
from fedlab.errors import BadInput

KINDS = ("tabular", "text", "image")


@dataclass(frozen=True, eq=False)
class Split:
    """Samples, their labels and the natural ids they came with.

    Args:
        inputs: Samples: (n, d) float32 for tables, (n, h, w, 3) uint8 for images, or a list of n texts.
        labels: Classes, (n,) int64 in [0, c).
        groups: Natural ids by name, (n,) each, such as {"domain": ...}; may be empty.

    Raises:
        BadInput: Lengths differ, or labels are not a vector of integers.
    """

    inputs: np.ndarray | list[str]
    labels: np.ndarray
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels.ndim != 1 or (labels.size and not np.issubdtype(labels.dtype, np.integer)):
            raise BadInput(f"labels have shape {labels.shape} and type {labels.dtype}: give a vector of integers")
        object.__setattr__(self, "labels", labels.astype(np.int64, copy=False))
        object.__setattr__(self, "groups", {name: _ids(name, ids) for name, ids in self.groups.items()})
        if len(self.inputs) != len(labels):
            raise BadInput(f"{len(self.inputs)} inputs but {len(labels)} labels: give one label per sample")
        for name, ids in self.groups.items():
            if ids.shape != labels.shape:
                raise BadInput(f"group {name!r} has shape {ids.shape}, limit {labels.shape}: one id per sample")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Split:
        """Return the samples at `indices`, (m,) integers, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        inputs = self.inputs
        taken = inputs[indices] if isinstance(inputs, np.ndarray) else [inputs[i] for i in indices.tolist()]
        return Split(taken, self.labels[indices], {name: ids[indices] for name, ids in self.groups.items()})


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification problem: a train split, a test split and the names of the c classes.

    Args:
        name: Name, as the user calls it.
        kind: Kind of the inputs: "tabular", "text" or "image".
        train, test: Splits of the samples, none empty.
        classes: Names of the c classes; label i means classes[i].
        fingerprint: SHA-256 of the contents, in hexadecimal; computed when left empty.

    Raises:
        BadInput: An empty split, inputs of another kind or width, NaN or infinite features, labels out of range.
    """

    name: str
    kind: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(f"dataset {self.name!r} is of kind {self.kind!r}: known are {', '.join(KINDS)}")
        object.__setattr__(self, "classes", tuple(self.classes))
        for name, split in (("train", self.train), ("test", self.test)):
            where = f"dataset {self.name!r}, {name} split"
            _check_inputs(where, self.kind, split)
            _check_labels(where, split.labels, self.num_classes)
        shapes = [getattr(split.inputs, "shape", (0,))[1:] for split in (self.train, self.test)]
        if shapes[0] != shapes[1]:
            raise BadInput(
                f"dataset {self.name!r}: train samples have shape {shapes[0]}, test samples {shapes[1]}: "
                "give both splits the same columns or image size"
            )
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", _fingerprint(self))

    @property
    def num_classes(self) -> int:
        """The number of classes, c."""
        return len(self.classes)


def divided(name: str, kind: str, splits: Sequence[Split], classes: tuple[str, ...], test: float, seed: int) -> Dataset:
    """Return a dataset of the (train, test) that are given, or of one split of which a share is held out by label."""
    if len(splits) == 1:
        splits = [splits[0].take(rows) for rows in hold_out(splits[0].labels, test, seed)]
    train, held = splits
    return Dataset(name, kind, train, held, classes)


def hold_out(strata: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold ceil(n * fraction) rows out, evenly over the strata; return (train, test) rows, ascending.

    Rows are shuffled, ordered by stratum and taken at even steps, so a stratum's share is right to one sample
    and a stratum with a single sample is no special case.

    Raises:
        BadInput: Fraction outside (0, 1), or fewer than 2 samples.
    """
    checks.number("test", fraction, above=0, below=1, remedy="0.2 holds out a fifth")
    n = len(strata)
    if n < 2:
        raise BadInput(f"{n} samples cannot be split into train and test: give at least 2")
    m = min(int(np.ceil(n * fraction)), n - 1)
    shuffled = np.random.default_rng(seed).permutation(n)
    ordered = shuffled[np.argsort(np.asarray(strata)[shuffled], kind="stable")]
    test = ordered[((np.arange(m) + 0.5) * n / m).astype(np.int64)]
    return np.setdiff1d(np.arange(n), test), np.sort(test)


def encode(where: str, *columns: Sequence | np.ndarray) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Number the values found in `columns` (one per split): labels in [0, c) and the c sorted names.

    Raises:
        BadInput: A missing label, or one that is a number but not an integer.
    """
    arrays = [np.asarray(column) for column in columns]
    for array in arrays:
        lost = [i for i, v in enumerate(array.tolist()) if v is None or v != v or v == ""]
        if lost:
            raise BadInput(f"{where}: {len(lost)} labels are missing, first in row {lost[0]}: fill or drop them")
    if any(np.issubdtype(array.dtype, np.floating) for array in arrays):
        whole = [array.astype(np.float64) for array in arrays]
        for array in whole:
            odd = array[~np.isfinite(array) | (array != np.round(array))]
            if odd.size:
                raise BadInput(f"{where}: label {odd[0]} is not a class: give integers or names, not measurements")
        arrays = [array.astype(np.int64) for array in whole]
    if any(array.dtype.kind not in "iub" for array in arrays):
        arrays = [np.array([str(v) for v in array.tolist()], dtype=object) for array in arrays]
    values, codes = np.unique(np.concatenate(arrays), return_inverse=True)
    ends = np.cumsum([len(array) for array in arrays])[:-1]
    return np.split(codes.astype(np.int64), ends), tuple(str(value) for value in values.tolist())


def as_names(chosen: Iterable[str] | str | None) -> tuple[str, ...] | None:
    """Return one name or several as a tuple: a list from a YAML file is not hashable, and a source must be."""
    return (chosen,) if isinstance(chosen, str) else None if chosen is None else tuple(chosen)


def _ids(name: str, ids: np.ndarray) -> np.ndarray:
    ids = np.asarray(ids)
    lost = [i for i, v in enumerate(ids.tolist()) if v is None or v != v]
    if lost:
        raise BadInput(f"group {name!r}: {len(lost)} ids are missing, first in row {lost[0]}: fill or drop them")
    return ids.astype(str) if ids.dtype == object else ids


def _check_inputs(where: str, kind: str, split: Split) -> None:
    if len(split) == 0:
        raise BadInput(f"{where} is empty: give at least 1 sample")
    inputs = split.inputs
    if kind == "text":
        if isinstance(inputs, np.ndarray):
            raise BadInput(f"{where} holds an array: texts come as a list of str")
        wrong = [i for i, text in enumerate(inputs) if not isinstance(text, str)]
        if wrong:
            raise BadInput(
                f"{where}: {len(wrong)} of {len(inputs)} samples are not text, first in row {wrong[0]} "
                f"({type(inputs[wrong[0]]).__name__}): fill or drop them"
            )
        return
    if not isinstance(inputs, np.ndarray):
        raise BadInput(f"{where} holds a {type(inputs).__name__}: {kind} inputs come as an array")
    if kind == "image" and (inputs.ndim != 4 or inputs.shape[3] != 3 or inputs.dtype != np.uint8):
        raise BadInput(f"{where} has shape {inputs.shape} and type {inputs.dtype}: images come as (n, h, w, 3) uint8")
    if kind == "tabular":
        if inputs.ndim != 2 or inputs.shape[1] == 0 or inputs.dtype != np.float32:
            raise BadInput(f"{where} has shape {inputs.shape} and type {inputs.dtype}: tables come as (n, d) float32")
        bad = ~np.isfinite(inputs)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise BadInput(
                f"{where}: {int(bad.sum())} features in {int(bad.any(1).sum())} rows are NaN or infinite, "
                f"first in row {row}, column {column} ({inputs[row, column]}): fill or drop them"
            )


def _check_labels(where: str, labels: np.ndarray, num_classes: int) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        raise BadInput(
            f"{where}: {wrong.size} labels are outside [0, {num_classes}), first in row {wrong[0]} "
            f"({labels[wrong[0]]}): number the classes from 0 and name them all"
        )


def _fingerprint(dataset: Dataset) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(dataset):
        # Every piece is preceded by its length: "ab" + "c" and "a" + "bc" are different contents.
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()


def _pieces(dataset: Dataset) -> Iterator[bytes | memoryview]:
    yield dataset.kind.encode()
    yield from (name.encode() for name in dataset.classes)
    for split in (dataset.train, dataset.test):
        if isinstance(split.inputs, np.ndarray):
            yield f"{split.inputs.dtype.str}{split.inputs.shape}".encode()
            yield np.ascontiguousarray(split.inputs).reshape(-1).view(np.uint8).data
        else:
            yield str(len(split.inputs)).encode()
            yield from (text.encode("utf-8", "surrogatepass") for text in split.inputs)
        yield split.labels.tobytes()
        for name in sorted(split.groups):
            yield name.encode()
            yield from (str(value).encode() for value in split.groups[name].tolist())
