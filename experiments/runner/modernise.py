"""The checkpoints of a run of before the move, written anew in today's names when it is resumed."""

from __future__ import annotations

import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.config.old_names import renamed_state
from experiments.runner.compare import checkpoints_of, describe
from fedlab.tracking.run_directory import RunDirectory

KEYS = {"model": "client", "attendance": "availability"}
"""Keys of the config that are keys of a method's description too."""


def modernise(cfg: DictConfig, directory: RunDirectory, before: dict[str, Any]) -> None:
    """Let the checkpoints of a run be those of its config in today's names; each file is replaced whole.

    Args:
        cfg: Config of the run, in today's names.
        directory: Directory of the run, claimed.
        before: Config that lies in it, as it was written.
    """
    # Above, the keys of today; below, everything as it was: so the description of then comes out, but for its keys.
    mixed = {KEYS.get(key, key): value for key, value in before.items()}
    mixed["methods"] = {
        name: {KEYS.get(key, key): value for key, value in method.items()} for name, method in before["methods"].items()
    }
    former = {new: old for old, new in KEYS.items()}
    for name in before["methods"]:
        description = describe(OmegaConf.create(mixed), name)
        text = json.dumps({former.get(key, key): value for key, value in description.items()})
        checkpoints_of(cfg, name, directory).adopt(text, renamed_state)
