"""Every dataset by name: what it is, where it comes from, under which licence.

A source is a frozen description with `load() -> Dataset`; equal descriptions load equal data. The bundled
digits need nothing at all and are the default of every demo; what else is listed in `SOURCES` is fetched on
request or read from the user's files, and its class can be named from here (`fedlab.data.sources.Reviews`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlab import checks
from fedlab.data.dataset import Dataset, Split, divided
from fedlab.data.sources.hub import HuggingFace
from fedlab.data.sources.local import CSV, ImageFolder, Numpy
from fedlab.data.sources.packages import Package
from fedlab.data.sources.phrases import Phrases
from fedlab.data.sources.published import EMOJI, REVIEWS, Emoji, Reviews
from fedlab.data.sources.tables import MLBENCH, Letter, Satellite, Shuttle


@dataclass(frozen=True)
class Digits:
    """1,797 handwritten digits of 8 x 8 pixels in 10 classes, bundled with scikit-learn; pixels in [0, 1].

    Args:
        split: Test split: "stratified" holds out a fifth of each class by seed; "last" is the dataset's last fifth,
            another distribution than the rest (and harder).
        seed: Seed of the rows held out; without effect on "last".
    """

    split: str = "stratified"
    seed: int = 0

    def load(self) -> Dataset:
        """Return 1,437 train and 360 test samples, (n, 64) float32.

        Raises:
            BadInput: An unknown split.
        """
        from sklearn.datasets import load_digits

        checks.choice("split", self.split, ("stratified", "last"))
        pixels, labels = load_digits(return_X_y=True)
        splits = [Split((np.asarray(pixels) / 16).astype(np.float32), np.asarray(labels))]
        if self.split == "last":
            rows = np.arange(len(labels))
            splits = [splits[0].take(part) for part in np.split(rows, [len(rows) * 4 // 5])]
        return divided("digits", "tabular", splits, tuple("0123456789"), 0.2, self.seed)


@dataclass(frozen=True)
class Listing:
    """What `fedlab data list` tells about a source.

    Args:
        title, kind, samples, classes, licence, origin: Facts for the reader; None where the user's files decide.
        source: Class that loads it.
        packages: Archives to fetch first; none for bundled and local data.
    """

    title: str
    kind: str
    samples: int | None
    classes: int | None
    licence: str
    origin: str
    source: type
    packages: tuple[Package, ...] = ()

    @property
    def megabytes(self) -> float:
        """Size of what has to be fetched."""
        return sum(package.megabytes for package in self.packages)

    @property
    def how(self) -> str:
        """How the data gets here."""
        clients = sorted({package.client for package in self.packages})
        return f"fetched with {', '.join(clients)}" if clients else self.origin


def _mlbench(title: str, samples: int, classes: int, source: type) -> Listing:
    origin = "Debian package r-cran-mlbench"
    return Listing(title, "tabular", samples, classes, MLBENCH.licence, origin, source, (MLBENCH,))


def _own(title: str, kind: str, origin: str, source: type, licence: str = "yours") -> Listing:
    return Listing(title, kind, None, None, licence, origin, source)


_DIGITS = "handwritten digits, 8 x 8 pixels"
_REVIEWS = "rated sentences from 4 domains (tweets, film, amazon, nyt)"
_PHRASES = "made-up sentences of 3 domains, to try things out"
_EMOJI = "emoji as two vendors draw them, 64 x 64 pixels"
_VENDORS = "; ".join(f"{vendor}: {package.licence}" for vendor, package in EMOJI.items())
_NPM = "npm packages emoji-datasource-google and -twitter 16.0.0"
_LETTER = "capital letters in 20 fonts, 16 measurements each"
_SHUTTLE = "states of a space shuttle's radiator, naturally long-tailed (45,586 samples to 10)"
_SATELLITE = "soil under 3 x 3 pixels of a satellite image, 4 spectral bands"
_HUB = ("any dataset of the hub, or saved in its format", "any", "downloaded by `datasets` when first used")
_SDIST = "sdist of vaderSentiment 3.3.2"

SOURCES: dict[str, Listing] = {
    "digits": Listing(_DIGITS, "tabular", 1797, 10, "BSD-3-Clause", "bundled with scikit-learn", Digits),
    "reviews": Listing(_REVIEWS, "text", 19_136, 2, REVIEWS.licence, _SDIST, Reviews, (REVIEWS,)),
    "phrases": Listing(_PHRASES, "text", 180, 2, "Apache-2.0", "made by fedlab", Phrases),
    "emoji": Listing(_EMOJI, "image", 3822, 10, _VENDORS, _NPM, Emoji, tuple(EMOJI.values())),
    "letter": _mlbench(_LETTER, 20_000, 26, Letter),
    "shuttle": _mlbench(_SHUTTLE, 58_000, 7, Shuttle),
    "satellite": _mlbench(_SATELLITE, 6435, 6, Satellite),
    "huggingface": _own(*_HUB, HuggingFace, "the dataset's own"),
    "csv": _own("a table with a header row", "any", "a local file", CSV),
    "numpy": _own("arrays x and y in an .npz archive", "any", "a local file", Numpy),
    "image_folder": _own("one folder of images per class", "image", "a local folder", ImageFolder),
}


def listing(name: str) -> Listing:
    """Return the entry of `SOURCES`.

    Raises:
        BadInput: No such name; names the closest.
    """
    return SOURCES[checks.choice("dataset", name, SOURCES)]
