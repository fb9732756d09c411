"""Where results come from: the versions and the commit of the code that made them."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "fedlab-analytic", "flwr", "flwr-datasets", "hydra-core", "matplotlib", "numpy", "opacus", "peft", "ray",
    "safetensors", "scikit-learn", "scipy", "torch", "transformers",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Version of each package that is installed, read from its metadata: nothing is imported."""
    installed = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed


def checkout(source: Path) -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout that `source` belongs to; None outside one.

    Args:
        source: File of the code. That it is tracked is checked first: an installation inside somebody's checkout is
            not that checkout.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def ask(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(source.parent), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True, env=environment, errors="replace"
        )
        return done.stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", source.name)
        return {"sha": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
