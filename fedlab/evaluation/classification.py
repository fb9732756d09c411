"""Metrics of a classifier, from labels and predictions alone."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int


def accuracy(labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"]) -> float:
    """Share of samples predicted rightly; NaN without samples."""
    return float(np.mean(labels == predicted)) if len(labels) else float("nan")


def balanced_accuracy(labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"]) -> float:
    """Mean over the classes that occur of the share predicted rightly; NaN without samples."""
    return float(np.mean([np.mean(predicted[labels == c] == c) for c in np.unique(labels)] or [np.nan]))


def class_accuracy(
    labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], num_classes: int
) -> Float64[np.ndarray, " c"]:
    """Share of each class's samples predicted rightly; NaN for a class without samples."""
    counts = np.bincount(labels, minlength=num_classes)
    hits = np.bincount(labels[labels == predicted], minlength=num_classes)
    return np.where(counts > 0, hits / np.maximum(counts, 1), np.nan)


def accuracy_by_size(by_class: Float64[np.ndarray, " c"], counts: Int[np.ndarray, " c"]) -> dict[str, float]:
    """Mean accuracy of the classes with many, some and few training samples; NaN where there are none such.

    Head: more than 100 samples; tail: fewer than 20; medium: the rest. Liu et al., Large-Scale Long-Tailed
    Recognition in an Open World, CVPR 2019, https://arxiv.org/abs/1904.05160.

    Args:
        by_class: Accuracy per class, as `class_accuracy` returns it.
        counts: Training samples of each class; one without any is in no group.
    """
    seen = (counts > 0) & ~np.isnan(by_class)
    groups = {"head": counts > 100, "medium": (counts >= 20) & (counts <= 100), "tail": counts < 20}
    means = {name: by_class[seen & group] for name, group in groups.items()}
    return {name: float(values.mean()) if len(values) else float("nan") for name, values in means.items()}


def classification(labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Return every metric of a classifier by name."""
    return {"accuracy": accuracy(labels, predicted), "balanced_accuracy": balanced_accuracy(labels, predicted)}
