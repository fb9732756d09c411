"""Extract once: features of a dataset, kept under the hash of everything that made them.

key = sha256(dataset fingerprint, split, backbone fingerprint). The device is not in the key: whoever extracts
first decides the last bits, and every later run, on whatever device, starts from the same ones. A file
appears whole or not at all (written aside, synced, renamed), carries the hash of its numbers, and is made
anew if it does not match; a folder that cannot be written costs the cache, never the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from fedlab.cache_folder import cache_folder
from fedlab.data.dataset import Dataset, Split
from fedlab.errors import BadInput
from fedlab.features.backbone import Backbone
from fedlab.features.backbones import Identity
from fedlab.features.batches import Progress, require_kind
from fedlab.tracking.run_directory import write_atomically

_LOG = logging.getLogger("fedlab")


def extract_dataset(
    dataset: Dataset, backbone: Backbone, *, device: str = "cpu", progress: Progress | None = None
) -> tuple[Float32[np.ndarray, "n d"], Float32[np.ndarray, "m d"]]:
    """Features of both splits, from the cache where they are known.

    Args:
        dataset: Dataset of n training and m test inputs of one kind.
        backbone: Frozen extractor; train and test go through the same transform.
        device: Device where features that are not cached are computed.
        progress: Callback progress(done, n + m), cached splits at once.

    Returns:
        (n, d) float32, (m, d) float32

    Raises:
        BadInput: If the backbone does not read this kind of data, cannot run, or a feature is NaN or infinite.
    """
    require_kind(type(backbone).__name__, backbone.kinds, dataset.kind)
    n, m = len(dataset.train.inputs), len(dataset.test.inputs)
    train = _split_features(dataset, "train", dataset.train, backbone, device, _part(progress, 0, n + m))
    test = _split_features(dataset, "test", dataset.test, backbone, device, _part(progress, n, n + m))
    return train, test


def _part(progress: Progress | None, before: int, total: int) -> Progress | None:
    return None if progress is None else lambda done, _: progress(before + done, total)


def _split_features(
    dataset: Dataset, name: str, split: Split, backbone: Backbone, device: str, progress: Progress | None
) -> np.ndarray:
    n = len(split.inputs)
    where = f"dataset {dataset.name!r}, split {name}"
    if isinstance(backbone, Identity):  # reading the file would cost more than the features
        return _finite(backbone.extract(split.inputs), where)
    key = hashlib.sha256(json.dumps([dataset.fingerprint, name, backbone.fingerprint()]).encode()).hexdigest()
    path = cache_folder() / "features" / f"{key}.safetensors"
    features = _read(path, n)
    if features is not None:
        if progress is not None:
            progress(n, n)
        return features
    features = _finite(backbone.extract(split.inputs, device=device, progress=progress), where)
    try:
        _write(path, features)
    except BadInput as error:
        reason = getattr(error.__cause__, "strerror", None) or error.__cause__
        _warn_once(f"features are not cached in {path.parent}: {reason}; set FEDLAB_CACHE")
    return features


def _finite(features: np.ndarray, where: str) -> np.ndarray:
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise BadInput(
            f"{where}: {len(bad)} of {len(features)} rows hold a NaN or infinite feature "
            f"(first row {bad[0]}): clean these inputs or choose another backbone"
        )
    return features


def _read(path: Path, n: int) -> np.ndarray | None:
    """Read n rows, or None if the file is absent, torn or not what its hash says."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            expected = (file.metadata() or {}).get("sha256")
            features = file.get_tensor("features")
    except (SafetensorError, OSError) as error:
        _LOG.info("cached features %s are unreadable (%s): extracting again", path, error)
        return None
    whole = features.dtype == np.float32 and features.ndim == 2 and len(features) == n
    if not whole or _digest(features) != expected:
        _LOG.info("cached features %s are damaged: extracting again", path)
        return None
    return features


def _write(path: Path, features: np.ndarray) -> None:
    from safetensors.numpy import save

    write_atomically(path, save({"features": features}, metadata={"sha256": _digest(features)}))


def _digest(features: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(features).data).hexdigest()


@lru_cache(maxsize=64)
def _warn_once(message: str) -> None:
    _LOG.warning(message)
