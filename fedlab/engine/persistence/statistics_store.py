"""Statistics kept in a folder, client by client, with their totals: what a deletion needs, and one commit point.

    total = sum of the parts of all clients        a part is what one client sent in one round, packed

`state.json` says which files count and what their digests are. New files come under new names, then one rename
of `state.json` makes them the state, and what it no longer names is removed: a kill at any moment leaves the
former state or the new one. A file that is not what the state says of it is refused.

A file has two sums. SHA-256 says what a client sent, and nobody can send other statistics under it. XXH3 finds damage
when a file is read, ten times as fast; who can forge it could write another `state.json` as well.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedlab.errors import BadInput
from fedlab.stats import Solution, pack
from fedlab.tracking.run_directory import remove, write_atomically

STATE = "state.json"
OURS = re.compile(r"(\d+(-\d+)?|(part|total|head)\.[0-9a-f]{16})\.safetensors")
"""Files that may be removed when no state names them: anything else in the folder is another's."""
REMEDY = "restore the folder from a copy, or run the experiment again"


@dataclass(frozen=True)
class Stored:
    """A file, the SHA-256 of its bytes and their XXH3 of 128 bits."""

    file: str
    digest: str
    checksum: str


@dataclass(frozen=True)
class Part:
    """What one client sent at one time.

    Attributes:
        stored: File of its packed statistics.
        phase: Phase whose total it is in.
        rounds: Rounds whose samples it is of: its own, and those that the client had missed.
    """

    stored: Stored
    phase: int = 0
    rounds: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class State:
    """What is in the sums.

    Attributes:
        totals: Packed total of each phase: one, 0, where their order does not matter.
        clients: Parts by node.
        forgotten: Rows of the training split that were deleted, by node; None where everything was.
        head: Solution of the totals; None where nobody had a sample yet.
        certificates: Certificates of all deletions, in their order.
    """

    totals: Mapping[int, Stored] = field(default_factory=dict)
    clients: Mapping[int, tuple[Part, ...]] = field(default_factory=dict)
    forgotten: Mapping[int, tuple[int, ...] | None] = field(default_factory=dict)
    head: Stored | None = None
    certificates: tuple[Mapping[str, Any], ...] = ()

    @property
    def files(self) -> Iterator[str]:
        """The files that count."""
        parts = (part.stored for part in chain.from_iterable(self.clients.values()))
        return (stored.file for stored in chain(self.totals.values(), parts, [self.head]) if stored)


class Kept:
    """The folder; it is made when something is written."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    # -- reading ---------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the state as it was last committed; a BadInput where there is none, or it is damaged."""
        path = self.folder / STATE
        try:
            return _state(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise BadInput(
                f"{path} cannot be read ({error.strerror}): nothing can be deleted where nothing was kept. Run "
                "the experiment with keep_clients=FOLDER"
            ) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadInput(f"{path} is damaged ({type(error).__name__}: {error}): {REMEDY}") from error

    def arrays(self, stored: Stored) -> dict[str, np.ndarray]:
        """Return what a file holds; a BadInput where it is missing, or another than the state names."""
        path = self.folder / stored.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadInput(f"{path} cannot be read ({error.strerror}): {REMEDY}") from error
        if (checksum := xxhash.xxh3_128_hexdigest(data)) != stored.checksum:
            raise BadInput(f"{path} is damaged (checksum {checksum[:12]}, kept was {stored.checksum[:12]}): {REMEDY}")
        try:
            return load(data)
        except SafetensorError as error:
            raise BadInput(f"{path} holds no arrays ({error}): {REMEDY}") from error

    # -- writing ---------------------------------------------------------------------------------------------

    def store(self, kind: str, arrays: Mapping[str, np.ndarray], stem: str | None = None) -> Stored:
        """Write arrays, a 'part', 'total' or 'head', under a name of their own; they count once a state names it.

        Args:
            kind: Kind of what they are.
            arrays: Arrays by name.
            stem: Name of the file, without what tells its format; None makes one of the kind and the digest.
        """
        data = _bytes_of(arrays)
        digest = hashlib.sha256(data).hexdigest()
        name = f"{stem or f'{kind}.{digest[:16]}'}.safetensors"
        write_atomically(self.folder / name, data)
        return Stored(name, digest, xxhash.xxh3_128_hexdigest(data))

    def commit(self, state: State) -> None:
        """Make this the state, in one rename; then remove what it does not name."""
        text = json.dumps(_plain(state), indent=None, separators=(",", ":"), allow_nan=False)
        write_atomically(self.folder / STATE, (text + "\n").encode())
        self.sweep(state)

    def sweep(self, state: State) -> None:
        """Remove files of ours that the state does not name: what was deleted, and what a kill left behind."""
        named = set(state.files)
        there = [path.name for path in self.folder.iterdir()]
        remove(self.folder, [name for name in there if OURS.fullmatch(name) and name not in named])
        remove(self.folder, [".*.safetensors.*.tmp", f".{STATE}.*.tmp"])


class Keeper:
    """What a strategy keeps while it runs, round by round.

    Args:
        folder: Folder; a relative one lies in the run directory, once `keep_in` has it.
    """

    def __init__(self, folder: str):
        self._given = folder
        self._kept = Kept(Path(folder))
        self._totals: dict[int, Stored] = {}
        self._clients: dict[int, tuple[Part, ...]] = {}

    def keep_in(self, directory: Path) -> None:
        """Let a relative folder lie in this directory."""
        self._kept = Kept(directory / self._given)

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return self._kept.folder

    def begin(self, server_round: int = 1, known: bool = False) -> None:
        """Begin a round (1, 2, ...), or begin it again: what was kept of it and of later ones is void.

        Where rounds before it are not `known`, the folder begins anew.
        """
        if not known:
            remove(self.folder, [STATE])
        before = self._kept.state() if known else State()
        self._totals = {phase: total for phase, total in before.totals.items() if phase < server_round}
        self._clients = {
            node: left
            for node, parts in before.clients.items()
            if (left := tuple(part for part in parts if part.rounds[-1] < server_round))
        }

    def keep(self, node: int, packed: Mapping[str, np.ndarray], phase: int = 0, rounds: Iterable[int] = (1,)) -> None:
        """Keep what a node sent.

        Args:
            node: Node that sent it.
            packed: Packed statistics.
            phase: Phase whose total they are in.
            rounds: Rounds whose samples they are of, the present one last.

        Raises:
            BadInput: They cannot be written.
        """
        *_, last = numbers = tuple(rounds)
        try:
            stored = self._kept.store("part", packed, f"{node}" if numbers == (1,) else f"{node}-{last}")
        except BadInput as error:
            raise BadInput(f"keep_clients={self.folder} cannot be written: {error}") from error
        self._clients[node] = (*self._clients.get(node, ()), Part(stored, phase, numbers))

    def close(self, total: Any, solution: Solution | None, phase: int = 0) -> None:
        """Keep the total of a phase and the head after it, and make all that was kept the state."""
        self._totals[phase] = self._kept.store("total", pack(total))
        head = self._kept.store("head", {"weight": solution.weight.numpy()}) if solution else None
        self._kept.commit(State(self._totals, self._clients, head=head))


def _bytes_of(arrays: Mapping[str, np.ndarray]) -> bytes:
    # The format writes memory as it lies, and a solve's lies column by column.
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def digest_of_file(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of the file that these arrays would be."""
    return hashlib.sha256(_bytes_of(arrays)).hexdigest()


def _plain(state: State) -> dict[str, Any]:
    clients = {
        node: [[*astuple(part.stored), part.phase, list(part.rounds)] for part in parts]
        for node, parts in state.clients.items()
    }
    return {"version": 2, **asdict(state), "clients": clients}


def _state(content: Mapping[str, Any]) -> State:
    if content["version"] != 2:
        raise ValueError(f"version {content['version']}")
    state = State(
        {int(phase): Stored(**stored) for phase, stored in content["totals"].items()},
        {
            int(node): tuple(Part(Stored(*file), phase, tuple(rounds)) for *file, phase, rounds in parts)
            for node, parts in content["clients"].items()
        },
        {int(node): None if rows is None else tuple(rows) for node, rows in content["forgotten"].items()},
        Stored(**content["head"]) if content["head"] else None,
        tuple(content["certificates"]),
    )
    if lost := {part.phase for parts in state.clients.values() for part in parts} - set(state.totals):
        raise ValueError(f"no total of phase {min(lost)}")
    return state
