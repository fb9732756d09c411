"""Tables inside a published package: letters, the states of a radiator, soil seen from above.

They are files of R in the Debian package r-cran-mlbench, originally of the UCI repository
(https://archive.ics.uci.edu). Their features are small integers; each is brought into [0, 1] by constants that
are written here, so every client scales alike and none has to see another's samples.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass

import numpy as np

from fedlab import checks
from fedlab.data.dataset import Dataset, Split, divided
from fedlab.data.sources.packages import Package, member, verified
from fedlab.errors import BadInput

MLBENCH = Package("apt", "r-cran-mlbench", "current", 1, "", "GPL-2; data of the UCI repository")


@dataclass(frozen=True)
class Table:
    """Where a table lies and what is publicly known of it.

    Args:
        file, sha256: Name of the file in the package, and its digest.
        label: Column of classes.
        train: Number of first rows that are the train split everyone publishes on.
        low, high: Smallest and largest value of each feature: one for all, or one per column, repeating.
        logarithmic: Scaling of features that span orders of magnitude, as sign(x) log(1 + |x|).
    """

    file: str
    sha256: str
    label: str
    train: int
    low: tuple[int, ...]
    high: tuple[int, ...]
    logarithmic: bool = False

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Return features in [0, 1], float32: six decimals, so that no machine's logarithm shows."""
        columns = np.arange(x.shape[1])
        low, high = (np.array(ends, np.float64)[columns % len(ends)] for ends in (self.low, self.high))
        if self.logarithmic:
            x, low, high = (np.sign(v) * np.log1p(np.abs(v)) for v in (x, low, high))
        return np.round((x - low) / (high - low), 6).astype(np.float32)


LETTER = "967a1a3e10b548d7269cbe50182bcecd6365cc58ea07638bbc34c51f17f34f1d"
SHUTTLE = "5b1db218b76a47c83f575f1ff38d7a7d36e569b0e27d8bf4aa92eae6c0bcb826"
SATELLITE = "29f8cf9bb1bc51b769d694c9caf740fd1c36ed6a7c87603edf5985962e330f64"
SHUTTLE_LOW = (27, -4821, 21, -3939, -188, -26_739, -48, -353, -356)
SHUTTLE_HIGH = (126, 5075, 149, 3830, 436, 15_164, 105, 270, 266)
TABLES = {
    "letter": Table("LetterRecognition.rda", LETTER, "lettr", 16_000, (0,), (15,)),
    "shuttle": Table("Shuttle.rda", SHUTTLE, "Class", 43_500, SHUTTLE_LOW, SHUTTLE_HIGH, logarithmic=True),
    "satellite": Table("Satellite.rda", SATELLITE, "classes", 4435, (39, 27, 50, 29), (104, 137, 145, 157)),
}


@dataclass(frozen=True)
class MLBenchTable:
    """A table of the package: "published" splits it as everyone does.

    Args:
        split: Test split: "published" trains on the first rows, "stratified" holds a fifth of each class out by seed.
        seed: Seed of the rows held out; without effect on "published".
    """

    split: str = "published"
    seed: int = 0

    def load(self) -> Dataset:
        """Return (n, d) float32 features in [0, 1].

        Raises:
            BadInput: Not fetched, another content than was published, or an unknown split.
        """
        checks.choice("split", self.split, ("published", "stratified"))
        name = type(self).__name__.lower()
        table = TABLES[name]
        x, labels, classes = _read(table, name)
        everything = [Split(table.scaled(x), labels)]
        if self.split == "published":
            everything = [everything[0].take(rows) for rows in np.split(np.arange(len(labels)), [table.train])]
        return divided(name, "tabular", everything, classes, 0.2, self.seed)


class Letter(MLBenchTable):
    """20,000 capital letters in 20 distorted fonts: 16 integer measurements each, 26 classes, nearly even.

    16,000 of them are for training. Frey, Slate 1991, https://doi.org/10.1007/BF00114162.
    """


class Shuttle(MLBenchTable):
    """58,000 states of a space shuttle's radiator, 9 integer readings, 7 classes from 45,586 samples to 10.

    43,500 of them are for training (in the rarest classes 6 and 11, with 4 and 2 to test). Readings reach -26,739, but
    most lie within 100 of 0: scaled in proportion they would all be one value, so they are scaled as
    sign(x) log(1 + |x|). Statlog (Shuttle), https://doi.org/10.24432/C5WS31.
    """


class Satellite(MLBenchTable):
    """6,435 patches of a Landsat image, 3 x 3 pixels in 4 spectral bands, 6 kinds of soil; each band over its range.

    4,435 of them are for training. Statlog (Landsat Satellite), https://doi.org/10.24432/C55887.
    """


def _read(table: Table, name: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return (n, d) features as published, (n,) labels and the names of the classes, in the factor's order."""
    import rdata

    with tarfile.open(verified(MLBENCH, name)) as package:
        content = member(package, f"/{table.file}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != table.sha256:
        raise BadInput(
            f"{MLBENCH.name} has {table.file} with SHA-256 {digest[:12]}..., known is {table.sha256[:12]}...: "
            "your distribution has another version; take one that still has it (Debian 12)"
        )
    (frame,) = rdata.read_rda(io.BytesIO(content), default_encoding="utf-8").values()
    factor = frame.pop(table.label).cat
    return frame.to_numpy(), factor.codes.to_numpy(np.int64), tuple(map(str, factor.categories))
