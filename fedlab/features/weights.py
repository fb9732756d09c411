"""What a frozen extractor is, as a hash: its weights, its transform and its name.

The cache trusts a stored feature only under the hash of what made it, so a retrained model in the same folder
must give another hash: files are recognised by size and time of change, and hashed again when either moves.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from fedlab.errors import BadInput

_MODEL_FILES = frozenset({".safetensors", ".bin", ".pth", ".json", ".txt", ".model", ".jinja"})


def fingerprint_of(name: str, **parts: object) -> str:
    """SHA-256 of a backbone's name, weights and transform, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps([name, parts], sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, streamed, and remembered in this process until the file changes."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> dict[str, str]:
    """SHA-256 of every weight, configuration and vocabulary file directly in a model folder, by name.

    Raises:
        BadInput: If the folder holds no `config.json`: it is not a saved model.
    """
    if not (folder / "config.json").is_file():
        raise BadInput(f"no config.json in {folder}: expected the folder a model's save_pretrained wrote")
    files = sorted(path for path in folder.iterdir() if path.suffix in _MODEL_FILES and path.is_file())
    return {path.name: file_digest(path) for path in files}
