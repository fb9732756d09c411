"""Any dataset of the Hugging Face hub, or saved in its format, by name.

The library `datasets` finds, downloads and caches it in its own folder; what is added here is the choice of
columns. Without a choice, the one image column is taken, else the one text column, else all numeric columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedlab import checks
from fedlab.data.dataset import Dataset, Split, as_names, divided, encode
from fedlab.errors import BadInput, reason

if TYPE_CHECKING:
    from datasets import Dataset as Table


@dataclass(frozen=True)
class HuggingFace:
    """A dataset by hub id or local folder.

    Args:
        path: Hub id ("ag_news"), a folder written by `save_to_disk`, or one of CSV, JSON, Parquet or images.
        name: Configuration of the dataset, where it has several.
        label: Column of labels.
        text, image, columns: Column of texts, or of images, or the numeric columns; at most one of them.
        group: Column of natural ids.
        train_split, test_split: Names of the splits; with test_split=None a share of the first is held out.
        size: Side of the images in pixels, after resizing.
        test: Share held out when test_split is None, in (0, 1).
        seed: Seed of the rows held out.
    """

    path: str
    name: str | None = None
    label: str = "label"
    text: str | None = None
    image: str | None = None
    columns: tuple[str, ...] | None = None
    group: str | None = None
    train_split: str = "train"
    test_split: str | None = "test"
    size: int = 64
    test: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", as_names(self.columns))
        if sum(choice is not None for choice in (self.text, self.image, self.columns)) > 1:
            raise BadInput("text, image and columns exclude each other: name one of them")

    def load(self) -> Dataset:
        """Return the chosen columns of the chosen splits.

        Raises:
            BadInput: The dataset cannot be reached or read, an unknown split or column, inputs of mixed kinds.
        """
        tables = self._read()
        chosen = [
            tables[checks.choice("split", split, tables)] for split in (self.train_split, self.test_split) if split
        ]
        for column in filter(None, (self.label, self.text, self.image, self.group, *(self.columns or ()))):
            checks.choice("column", column, chosen[0].column_names)
        labels, classes = self._labels(chosen)
        kind, columns = self._inputs(chosen[0])
        splits = []
        for table, y in zip(chosen, labels, strict=True):
            groups = {self.group: np.asarray(table[self.group][:])} if self.group else {}
            splits.append(Split(self._read_inputs(table, kind, columns), y, groups))
        return divided(self.path, kind, splits, classes, self.test, self.seed)

    def _read(self) -> dict[str, Table]:
        import datasets

        folder = Path(self.path).expanduser()
        try:
            if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
                tables: Any = datasets.load_from_disk(str(folder))
            else:
                tables = datasets.load_dataset(self.path, self.name)
        # The library raises a dozen kinds of error, the network's and its own; all say why.
        except Exception as error:
            raise BadInput(
                f"dataset {self.path!r} could not be loaded ({reason(error)}): check the name, and that this "
                "machine is online or has the dataset in Hugging Face's cache; a local folder works offline"
            ) from error
        return tables if isinstance(tables, dict) else {self.train_split: tables}

    def _labels(self, tables: list[Table]) -> tuple[list[np.ndarray], tuple[str, ...]]:
        feature = tables[0].features[self.label]
        values = [table[self.label][:] for table in tables]
        names = getattr(feature, "names", None)
        if names is None or any(value is None for column in values for value in column):
            return encode(f"column {self.label!r} of {self.path}", *values)
        return [np.asarray(column, dtype=np.int64) for column in values], tuple(names)

    def _inputs(self, table: Table) -> tuple[str, tuple[str, ...]]:
        """Choose the kind and the columns: as named, else by the columns' types."""
        from datasets import Image, Value

        if self.image:
            return "image", (self.image,)
        if self.text:
            return "text", (self.text,)
        if self.columns:
            return "tabular", self.columns
        free = {c: f for c, f in table.features.items() if c not in (self.label, self.group)}
        images = [c for c, f in free.items() if isinstance(f, Image)]
        texts = [c for c, f in free.items() if isinstance(f, Value) and f.dtype in ("string", "large_string")]
        numeric = ("int", "uint", "float")
        numbers = [c for c, f in free.items() if isinstance(f, Value) and f.dtype.startswith(numeric)]
        for kind, names in (("image", images), ("text", texts)):
            if len(names) == 1:
                return kind, (names[0],)
        if images or texts or not numbers:
            raise BadInput(
                f"dataset {self.path!r} has columns {', '.join(free)}: which is the input is not clear; "
                "say text=COLUMN, image=COLUMN or columns=[...]"
            )
        return "tabular", tuple(numbers)

    def _read_inputs(self, table: Table, kind: str, columns: tuple[str, ...]) -> np.ndarray | list[str]:
        if kind == "text":
            return list(table[columns[0]][:])
        if kind == "image":
            from fedlab.data.sources.pictures import to_array

            pictures = []
            # Row by row: decoded pictures in their own sizes may not fit in memory together.
            for i in range(len(table)):
                picture = table[i][columns[0]]
                if picture is None:
                    raise BadInput(f"column {columns[0]!r} of {self.path!r}: no image in row {i}: drop that row")
                pictures.append(to_array(picture, self.size))
            return np.stack(pictures)
        try:
            features = [np.asarray(table[name][:], dtype=np.float64) for name in columns]
            return np.column_stack(features).astype(np.float32)
        except (TypeError, ValueError) as error:
            raise BadInput(f"columns {', '.join(columns)} of {self.path!r} are not all numeric ({error})") from error
