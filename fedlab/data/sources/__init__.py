"""Datasets by name: `fedlab.data.sources.Reviews`."""

from fedlab.data.sources.catalogue import SOURCES, Digits, Listing, listing
from fedlab.data.sources.hub import HuggingFace
from fedlab.data.sources.local import CSV, ImageFolder, Numpy
from fedlab.data.sources.phrases import Phrases
from fedlab.data.sources.published import Emoji, Reviews
from fedlab.data.sources.tables import Letter, Satellite, Shuttle

__all__ = [
    "CSV", "SOURCES", "Digits", "Emoji", "HuggingFace", "ImageFolder", "Letter", "Listing", "Numpy",
    "Phrases", "Reviews", "Satellite", "Shuttle", "listing",
]  # fmt: skip
