"""Checkpoints: what the next round depends on, in one file that is whole or is not there.

    FOLDER/round-000012.DIGEST.safetensors      FOLDER/result.DIGEST.safetensors once the method has ended

Safetensors for the arrays, JSON in its metadata for the rest; no pickle. The name carries a digest of the
content, so a file that was cut short or altered is known for it and the one before it is used. A run that
continues from a checkpoint ends with the bits of one that was never interrupted: the model, the strategy's
own state, the nodes' state and the process's random states are in it.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedlab.engine.persistence.state import pack, pack_random, unpack, unpack_random
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput
from fedlab.tracking.run_directory import remove, write_atomically

FORMAT = 1
"""Raised when a file of before can no longer be read."""
KEPT = 2
"""Checkpoints of rounds that stay: the newest, and the one that is used should it be damaged."""
UNFINISHED = ".r*.tmp"
"""What a kill leaves of a checkpoint that was being written."""
FILES = ("round-*.safetensors", "result.*.safetensors", UNFINISHED)
_NAME = re.compile(r"(?:round-(\d+)|result)\.([0-9a-f]{16})\.safetensors")


class Checkpoints:
    """The checkpoints of one method of one run.

    Args:
        folder: Folder of theirs alone.
        config: Text that describes the run; a checkpoint of another is refused.
        every: Rounds from one to the next; None writes none, and reads those that are there.
    """

    def __init__(self, folder: Path | str, config: str, every: int | None = 1):
        self.folder, self.every = Path(folder), every
        self._identity = _identity(config)
        self._reported: set[str] = set()

    # -- within a method -------------------------------------------------------------------------------------

    def after(self, server_round: int, state: Mapping[str, Any]) -> list[str]:
        """Write a checkpoint if it is time; forget those that are no longer needed.

        Args:
            server_round: Round that has ended.
            state: Objects by name; see `fedlab.engine.persistence.state`.

        Returns:
            list: What could not be written and was not said before: it will be as the config constructs it.

        Raises:
            BadInput: The disk is full or read-only. The checkpoints of before are still whole.
        """
        if self.every is None or server_round % self.every:
            return []
        left_out = self._write(f"round-{server_round:06d}", state)
        for _, path in self._rounds()[:-KEPT]:
            path.unlink(missing_ok=True)
        new = [where for where in left_out if where not in self._reported]
        self._reported.update(new)
        return new

    def restore(self, state: Mapping[str, Any]) -> int | None:
        """Put the newest whole checkpoint back into these objects; return its round, None if there is none.

        Raises:
            BadInput: It is one of another run, or of a version that writes them differently.
        """
        whole, content = self._newest or (None, None)
        if content is not None:
            unpack(*content, state)
        for number, path in self._rounds():
            if whole is None or number > whole:  # damaged: they must not count as kept
                path.unlink(missing_ok=True)
        remove(self.folder, [UNFINISHED])
        return whole

    @cached_property
    def last_round(self) -> int | None:
        """The round of the newest whole checkpoint; None if there is none."""
        newest = self._newest
        return newest[0] if newest else None

    @property
    def _newest(self) -> tuple[int, tuple[Any, dict[str, np.ndarray]]] | None:
        for server_round, path in reversed(self._rounds()):
            if (content := self._read(path)) is not None:
                return server_round, content
        return None

    def _rounds(self) -> list[tuple[int, Path]]:
        named = ((_NAME.fullmatch(path.name), path) for path in self.folder.glob("round-*"))
        return sorted((int(match[1]), path) for match, path in named if match)

    # -- its end ---------------------------------------------------------------------------------------------

    def finish(self, state: Mapping[str, Any]) -> None:
        """Keep what the method has come to: it need not run again."""
        if self.every is not None:
            self._write("result", state)

    def result(self) -> dict[str, Any] | None:
        """Return what `finish` kept; None if the method has not ended, or the file is damaged."""
        for path in self.folder.glob("result.*"):
            if (content := self._read(path)) is not None:
                return unpack(*content, {})
        return None

    def forget(self) -> None:
        """Remove all of them."""
        remove(self.folder, FILES)

    def adopt(self, config: str, renamed: Callable[[Any], Any]) -> None:
        """Write anew, as checkpoints of this config, those that were written under a former text of it.

        Args:
            config: Text that described the run then.
            renamed: Function from the tree of a state as it was written to the same in today's names.
        """
        for path in self.folder.glob("*.safetensors"):
            match, data = _NAME.fullmatch(path.name), path.read_bytes()
            metadata = _metadata(data)
            if match and _digest(data) == match[2] and metadata.get("run") == _identity(config):
                metadata |= {"run": self._identity, "state": json.dumps(renamed(json.loads(metadata["state"])))}
                self._put(path.name.split(".")[0], save(load(data), metadata))
                path.unlink()

    # -- one file --------------------------------------------------------------------------------------------

    def _write(self, stem: str, state: Mapping[str, Any]) -> list[str]:
        tree, arrays, left_out = pack(state)
        metadata = {"format": str(FORMAT), "run": self._identity, "state": json.dumps(tree)}
        self._put(stem, save(arrays, metadata))
        return left_out

    def _put(self, stem: str, data: bytes) -> None:
        write_atomically(self.folder / f"{stem}.{_digest(data)}.safetensors", data)

    def _read(self, path: Path) -> tuple[Any, dict[str, np.ndarray]] | None:
        match = _NAME.fullmatch(path.name)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        if match is None or _digest(data) != match[2]:
            return None
        metadata = _metadata(data)
        if metadata.get("format") != str(FORMAT):
            raise BadInput(
                f"{path} was written in format {metadata.get('format')}, this version reads {FORMAT}: "
                "continue with the version that manifest.json names, or start a new run"
            )
        if metadata.get("run") != self._identity:
            raise BadInput(
                f"{path} is a checkpoint of another experiment or of other settings: continue the run "
                "it belongs to, or start a new one"
            )
        try:
            return json.loads(metadata["state"]), load(data)
        except (SafetensorError, KeyError, ValueError) as error:
            raise BadInput(f"{path} is no checkpoint ({error}): remove it, and continue again") from error


class GlobalRandomness:
    """The random states that belong to the process: Python's, NumPy's and torch's."""

    def state_dict(self) -> dict[str, Any]:
        """Return all of them."""
        return {
            "python": pack_random(random.getstate()),
            "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 (Flower's strategies draw from it)
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back; of GPUs, those that are here."""
        random.setstate(unpack_random(state["python"]))
        np.random.set_state(state["numpy"])  # noqa: NPY002
        torch.set_rng_state(state["torch"])
        for device, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda, device)


class NodeStates:
    """What the simulated nodes remember from round to round, as three arrays however many they are."""

    def __init__(self, grid: MeteredGrid):
        self._grid = grid

    def state_dict(self) -> dict[str, Any]:
        """Return ids, lengths and the bytes one after the other."""
        states = self._grid.node_states()
        return {
            "nodes": np.array(list(states), np.uint64),
            "lengths": np.array([len(state) for state in states.values()], np.int64),
            "bytes": b"".join(states.values()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give every node its own again."""
        ends = np.cumsum(state["lengths"]).tolist()
        parts = zip(state["nodes"].tolist(), [0, *ends], ends, strict=False)
        self._grid.set_node_states({node: state["bytes"][start:end] for node, start, end in parts})


def _identity(config: str) -> str:
    return hashlib.sha256(config.encode()).hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _metadata(data: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file; an empty one if it is no such file."""
    try:
        length = int.from_bytes(data[:8], "little")
        return dict(json.loads(data[8 : 8 + length])["__metadata__"])
    except (ValueError, KeyError, TypeError):
        return {}
