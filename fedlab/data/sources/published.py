"""Datasets inside published packages: rated reviews in four domains, and emoji as two vendors draw them.

Both carry a federation of their own: reviews came from four places that write differently, and each vendor
draws the same emoji in its own style (the same label, other features). They are read straight from the
archives in the cache; `fedlab data fetch NAME` puts them there.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlab import checks
from fedlab.data.dataset import Dataset, Split, as_names, encode, hold_out
from fedlab.data.sources.packages import Package, member, read, verified
from fedlab.errors import BadInput
from fedlab.randomness import rng_for

REVIEWS = Package(
    *("pypi", "vaderSentiment", "3.3.2", 2.5),
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    licence="MIT; texts by third parties (tweets, film and product reviews, newspaper)",
)
EMOJI = {
    "google": Package(
        *("npm", "emoji-datasource-google", "16.0.0", 74.3),
        sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        licence="MIT; images Noto Emoji, Apache-2.0",
    ),
    "twitter": Package(
        *("npm", "emoji-datasource-twitter", "16.0.0", 61.7),
        sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        licence="MIT; images Twemoji, CC-BY-4.0",
    ),
}
DOMAINS = {
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}


@dataclass(frozen=True)
class Reviews:
    """Sentences from tweets, film reviews, product reviews and editorials, rated -4..4 by 20 people each.

    Args:
        task: Labels: "sentiment" (negative, positive) or "domain" (amazon, movie, nyt, tweets).
        seed: Seed of the rows held out.
        threshold: Mean rating within which, +-, sentences are left out, of both tasks.
        test: Share held out, stratified by domain and sentiment.
        each: Sentences of a domain, at most, drawn by the seed before some are held out; None takes all.

    References:
        Hutto, Gilbert 2014, https://doi.org/10.1609/icwsm.v8i1.14550
    """

    task: str = "sentiment"
    seed: int = 0
    threshold: float = 0.5
    test: float = 0.2
    each: int | None = None

    def load(self) -> Dataset:
        """Return the texts, with groups {"domain"}.

        Raises:
            BadInput: Not fetched, an unknown task, a threshold outside [0, 4), or each below 10.
        """
        if self.each is not None:
            checks.integer("each", self.each, least=10, remedy="fewer sentences of a domain cannot be split")
        checks.choice("task", self.task, ("sentiment", "domain"))
        remedy = "ratings lie in -4..4, 0.5 is usual"
        checks.number("threshold", self.threshold, least=0, below=4, remedy=remedy)
        texts, ratings, domains = _read_reviews()
        kept = np.flatnonzero(np.abs(ratings) > self.threshold)
        if self.each is not None:
            drawn = rng_for(self.seed, "each").permutation(kept)
            kept = np.sort(np.concatenate([drawn[domains[drawn] == name][: self.each] for name in DOMAINS]))
        texts, domains, positive = [texts[i] for i in kept], domains[kept], ratings[kept] > 0
        [domain_labels], domain_names = encode("reviews", domains)
        labels = domain_labels if self.task == "domain" else positive.astype(np.int64)
        everything = Split(texts, labels, {"domain": domains})
        train, test = hold_out(2 * domain_labels + positive, self.test, self.seed)
        classes = domain_names if self.task == "domain" else ("negative", "positive")
        return Dataset("reviews", "text", everything.take(train), everything.take(test), classes)


def _read_reviews() -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return n texts, their mean ratings (n,) float64 and their domains (n,), in file order."""
    texts: list[str] = []
    ratings: list[float] = []
    domains: list[str] = []
    with tarfile.open(verified(REVIEWS, "reviews")) as package:
        inner = member(package, "/hutto_ICWSM_2014.tar.gz")
        with tarfile.open(fileobj=io.BytesIO(inner)) as resources:
            for domain, name in DOMAINS.items():
                # Not splitlines(): a sentence may hold other characters that Python counts as breaks.
                for line in member(resources, "/" + name).decode("utf-8").split("\n"):
                    if line.strip():
                        _, rating, text = line.rstrip("\r").split("\t")
                        texts.append(text)
                        ratings.append(float(rating))
                        domains.append(domain)
    return texts, np.array(ratings), np.array(domains)


@dataclass(frozen=True)
class Emoji:
    """1,911 emoji in 10 categories, 64 x 64 pixels, drawn by each vendor: one label, several styles.

    An emoji held out is held out for every vendor, so no test image has a twin in the training data.

    Args:
        vendors: Vendors, one or both of "google" and "twitter".
        seed: Seed of the emoji held out.
        test: Share held out, stratified by category.
    """

    vendors: tuple[str, ...] = ("google", "twitter")
    seed: int = 0
    test: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "vendors", as_names(self.vendors))
        for vendor in self.vendors:
            checks.choice("vendor", vendor, EMOJI)
        if not self.vendors or len(set(self.vendors)) != len(self.vendors):
            raise BadInput(f"vendors={list(self.vendors)}: name each of {', '.join(EMOJI)} at most once, at least one")

    def load(self) -> Dataset:
        """Return (n, 64, 64, 3) uint8 images composited on white, with groups {"vendor"}.

        Raises:
            BadInput: A vendor's package is not fetched, or the vendors do not draw the same emoji.
        """
        drawn = [_read_emoji(vendor) for vendor in self.vendors]
        names, categories, _ = drawn[0]
        if any(other != names for other, _, _ in drawn):
            raise BadInput(f"vendors {', '.join(self.vendors)} do not draw the same emoji: fetch one version of all")
        [labels], classes = encode("emoji", categories)
        train, test = hold_out(labels, self.test, self.seed)

        def split(rows: np.ndarray) -> Split:
            images = np.concatenate([images[rows] for _, _, images in drawn])
            vendors = np.repeat(np.array(self.vendors), len(rows))
            return Split(images, np.tile(labels[rows], len(drawn)), {"vendor": vendors})

        return Dataset("emoji", "image", split(train), split(test), classes)


def _read_emoji(vendor: str) -> tuple[list[str], list[str], np.ndarray]:
    """Return the n file names, their categories and (n, 64, 64, 3) uint8 images, in the table's order."""
    from fedlab.data.sources.pictures import decode

    with tarfile.open(verified(EMOJI[vendor], "emoji")) as package:
        # One pass over the archive: seeking back in a compressed stream would decompress it again per image.
        wanted = ("package/emoji.json", f"package/img/{vendor}/64/")
        files = {m.name: read(package, m) for m in package if m.isfile() and m.name.startswith(wanted)}
    table: list[dict[str, Any]] = [row for row in json.loads(files[wanted[0]]) if row[f"has_img_{vendor}"]]
    names = [row["image"] for row in table]
    images = [decode(files[wanted[1] + name], name, size=64) for name in names]
    return names, [row["category"] for row in table], np.stack(images)
