"""Datasets from the user's own files: CSV tables, NumPy archives and folders of images.

The formats are the standard ones; nothing is converted on disk. Where a file names no test split, a
stratified share is held out by seed. Classes are whatever labels occur, in sorted order.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedlab import checks
from fedlab.data.dataset import Dataset, Split, as_names, divided, encode
from fedlab.errors import BadInput

if TYPE_CHECKING:
    from pandas import DataFrame

IMAGE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".webp")


@dataclass(frozen=True)
class CSV:
    """A table with a header row: one column of labels, the others features, or one column of texts.

    Args:
        path: File; ".gz", ".bz2", ".xz" and ".zip" are read through.
        label: Column of labels, integers or names.
        test: File with the same columns, or the share to hold out, in (0, 1).
        columns: Feature columns; None takes every column that is not the label or the group.
        text: Column of texts, instead of feature columns.
        group: Column of natural ids.
        seed: Seed of the rows held out.
    """

    path: str
    label: str
    test: str | float = 0.2
    columns: tuple[str, ...] | None = None
    text: str | None = None
    group: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", as_names(self.columns))

    def load(self) -> Dataset:
        """Return a table of float32 features or a list of texts; the group, if any, under its column's name.

        Raises:
            BadInput: No such file or column, a column that is not numeric, a missing label or value.
        """
        frames = [_read_csv(self.path)]
        if isinstance(self.test, str):
            frames.append(_read_csv(self.test))
        labels, classes = encode(
            f"column {self.label!r} of {self.path}", *[self._column(f, self.label) for f in frames]
        )
        splits = [self._split(frame, y) for frame, y in zip(frames, labels, strict=True)]
        share = 0.0 if isinstance(self.test, str) else self.test
        return divided(Path(self.path).stem, "text" if self.text else "tabular", splits, classes, share, self.seed)

    def _split(self, frame: DataFrame, labels: np.ndarray) -> Split:
        groups = {self.group: self._column(frame, self.group)} if self.group else {}
        if self.text:
            return Split(self._column(frame, self.text).tolist(), labels, groups)
        names = self.columns or tuple(c for c in frame.columns if c not in (self.label, self.group))
        features = [self._column(frame, name) for name in names]
        odd = [name for name, column in zip(names, features, strict=True) if column.dtype.kind not in "iufb"]
        if odd:
            raise BadInput(
                f"{self.path}: columns {', '.join(map(repr, odd))} are not numeric: name the numeric ones "
                "(columns=[...]), or one column of text (text=...)"
            )
        if not features:
            raise BadInput(f"{self.path} has no feature column beside {self.label!r}: add one, or say text=COLUMN")
        return Split(_float32(np.column_stack(features)), labels, groups)

    def _column(self, frame: DataFrame, name: str) -> np.ndarray:
        column = frame[checks.choice("column", name, map(str, frame.columns))]
        return column.to_numpy() if column.dtype.kind in "iufb" else column.to_numpy(dtype=object)


def _read_csv(path: str) -> DataFrame:
    import pandas

    file = _existing(path)
    try:
        frame = pandas.read_csv(file)
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} cannot be read as CSV ({error}): save it as UTF-8") from error
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} cannot be read as CSV ({error}): give a comma-separated table") from error
    if frame.empty:
        raise BadInput(f"{path} holds no rows under its header: give at least 2")
    return frame


@dataclass(frozen=True)
class Numpy:
    """An `.npz` archive with arrays x and y, and optionally x_test and y_test, group and group_test, classes.

    Args:
        path: File. x is (n, d) numbers, (n, h, w[, 3]) uint8 images or (n,) texts; y is (n,) labels.
        test: Share held out when the archive has no x_test, in (0, 1).
        seed: Seed of the rows held out.
    """

    path: str
    test: float = 0.2
    seed: int = 0

    def load(self) -> Dataset:
        """Return the arrays; with `classes`, y holds numbers in [0, c), else whatever labels occur.

        Raises:
            BadInput: No such file, no x or y, pickled objects, or shapes of no known kind.
        """
        file = _existing(self.path)
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = dict(archive)
        except (ValueError, OSError, zipfile.BadZipFile, TypeError) as error:
            raise BadInput(f"{self.path} cannot be read ({error}): save plain arrays with numpy.savez") from error
        endings = ("", "_test") if "x_test" in arrays else ("",)
        missing = [name + ending for ending in endings for name in "xy" if name + ending not in arrays]
        if missing:
            raise BadInput(f"{self.path} holds {', '.join(arrays)}, no {missing[0]!r}: save x, y[, x_test, y_test]")
        ys = [arrays["y" + ending] for ending in endings]
        if "classes" in arrays:
            labels, classes = ys, tuple(map(str, arrays["classes"].tolist()))
        else:
            labels, classes = encode(f"y of {self.path}", *ys)
        kinds, splits = set(), []
        for ending, y in zip(endings, labels, strict=True):
            kind, inputs = _as_inputs(f"x{ending} of {self.path}", arrays["x" + ending])
            groups = {"group": arrays["group" + ending]} if "group" + ending in arrays else {}
            kinds.add(kind)
            splits.append(Split(inputs, y, groups))
        if len(kinds) > 1:
            raise BadInput(f"{self.path}: x and x_test are of kinds {', '.join(sorted(kinds))}: save one kind")
        return divided(Path(self.path).stem, kinds.pop(), splits, classes, self.test, self.seed)


def _as_inputs(where: str, x: np.ndarray) -> tuple[str, np.ndarray | list[str]]:
    if x.ndim == 1 and x.dtype.kind == "U":
        return "text", [str(text) for text in x.tolist()]
    if x.dtype == np.uint8 and x.ndim == 3:
        return "image", np.repeat(x[..., None], 3, axis=3)
    if x.dtype == np.uint8 and x.ndim == 4:
        return "image", x
    if x.ndim == 2 and x.dtype.kind in "iufb":
        return "tabular", _float32(x)
    raise BadInput(
        f"{where} has shape {x.shape} and type {x.dtype}: known are (n, d) numbers, "
        "(n, h, w[, 3]) uint8 images and (n,) texts"
    )


@dataclass(frozen=True)
class ImageFolder:
    """A folder with one folder of images per class, or with `train` and `test` folders of such folders.

    Args:
        path: Folder of the images.
        size: Side of the images in pixels, after resizing; transparency becomes white.
        test: Share held out when there are no train and test folders, in (0, 1).
        seed: Seed of the images held out.
    """

    path: str
    size: int = 64
    test: float = 0.2
    seed: int = 0

    def load(self) -> Dataset:
        """Return (n, size, size, 3) uint8 images; classes are the folders' names.

        Raises:
            BadInput: No such folder, no class with an image, an unreadable image, or a size outside [1, 4096].
        """
        from fedlab.data.sources.pictures import decode

        checks.integer("size", self.size, 1, 4096, remedy="64 and 224 pixels are usual")
        root = _existing(self.path)
        ready = (root / "train").is_dir() and (root / "test").is_dir()
        images = [_images(root / name) for name in ("train", "test")] if ready else [_images(root)]
        labels, classes = encode(self.path, *[[path.parent.name for path in paths] for paths in images])
        decoded = (np.stack([decode(path.read_bytes(), str(path), self.size) for path in paths]) for paths in images)
        splits = [Split(pixels, y) for pixels, y in zip(decoded, labels, strict=True)]
        return divided(root.resolve().name, "image", splits, classes, self.test, self.seed)


def _images(root: Path) -> list[Path]:
    paths = sorted(path for path in root.glob("*/*") if path.suffix.lower() in IMAGE_ENDINGS)
    if not paths:
        raise BadInput(f"{root} holds no CLASS/IMAGE with ending {', '.join(IMAGE_ENDINGS)}: make one folder per class")
    return paths


def _existing(path: str) -> Path:
    full = Path(path).expanduser()
    if not full.exists():
        raise BadInput(f"{path} does not exist (looked in {Path.cwd()}): give the path of a local file or folder")
    return full


def _float32(x: np.ndarray) -> np.ndarray:
    # What overflows float32 becomes infinite here and is reported by the dataset, with its row and column.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(x, dtype=np.float32)
