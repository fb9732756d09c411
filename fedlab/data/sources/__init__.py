"""Datasets by name: `fedlab.data.sources.Reviews`."""

from fedlab.data.sources.catalogue import (
    CSV,
    SOURCES,
    Digits,
    Emoji,
    HuggingFace,
    ImageFolder,
    Letter,
    Listing,
    Numpy,
    Phrases,
    Reviews,
    Satellite,
    Shuttle,
    listing,
)

__all__ = [
    "CSV",
    "SOURCES",
    "Digits",
    "Emoji",
    "HuggingFace",
    "ImageFolder",
    "Letter",
    "Listing",
    "Numpy",
    "Phrases",
    "Reviews",
    "Satellite",
    "Shuttle",
    "listing",
]
