"""What a classifier is judged by, from labels and predictions alone."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def accuracy(labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"]) -> float:
    """Share of samples predicted rightly; NaN without samples."""
    return float(np.mean(labels == predicted)) if len(labels) else float("nan")


def balanced_accuracy(labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"]) -> float:
    """Mean over the classes that occur of the share predicted rightly; NaN without samples."""
    return float(np.mean([np.mean(predicted[labels == c] == c) for c in np.unique(labels)] or [np.nan]))


def classification(labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Return every metric of a classifier by name."""
    return {
        "accuracy": accuracy(labels, predicted),
        "balanced_accuracy": balanced_accuracy(labels, predicted),
    }
