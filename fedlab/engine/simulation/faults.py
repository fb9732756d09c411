"""What goes wrong in a federation, drawn by seed: the same faults strike on any number of workers.

    u ~ U(0, 1) from (seed, fault, round, node);   the fault strikes if u < rate

`Dropout` and `Straggler` are known before a client is asked; `Crash`, `Corrupt` and `Duplicate` happen where it
runs. Faults strike training, not evaluation.

| fault | what the server sees | what a strategy does |
|---|---|---|
| Dropout | an error reply | goes on without the client, within the tolerated share |
| Straggler | an error reply at the deadline, the reply itself later | as above; `late: merge` adds it afterwards |
| Crash | nothing: the worker is replaced and its messages run again | the same result |
| Corrupt | a reply of NaN, or of wrong shapes, types or names | refuses it, naming the client; then as a dropout |
| Duplicate | a reply twice | takes the first |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict

from fedlab import checks
from fedlab.engine.messages.records import from_record, records_of, round_of, to_record
from fedlab.errors import BadInput

DAMAGES = ("nan", "shape", "dtype", "keys")


@dataclass(frozen=True)
class Fault:
    """Something that strikes a share of the clients in every round.

    Args:
        rate: Probability per client and round, in [0, 1].

    Raises:
        BadInput: The rate is no probability.
    """

    rate: float

    def __post_init__(self) -> None:
        checks.share(f"faults: {type(self).__name__}.rate", self.rate, remedy="0.1 strikes a tenth")


@dataclass(frozen=True)
class Dropout(Fault):
    """The client is gone for the round."""


@dataclass(frozen=True)
class Straggler(Fault):
    """The client takes exponentially long, and is late if that is past the deadline. Nobody really waits.

    Args:
        delay: Mean delay of those it strikes, in simulated seconds.
        deadline: Deadline of the round, in simulated seconds.
    """

    delay: float = 60.0
    deadline: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("delay", "deadline"):
            checks.number(f"faults: Straggler.{name}", getattr(self, name), above=0, remedy="seconds")


@dataclass(frozen=True)
class Crash(Fault):
    """The worker process that runs the client is killed, once. LocalGrid has none to kill and goes on."""


@dataclass(frozen=True)
class Corrupt(Fault):
    """The reply's arrays are damaged.

    Args:
        damage: Kind of damage: 'nan', 'shape', 'dtype' or 'keys'; 'any' draws one.
    """

    damage: str = "any"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("damage", self.damage, (*DAMAGES, "any"))


@dataclass(frozen=True)
class Duplicate(Fault):
    """The reply arrives twice."""


F = TypeVar("F", bound=Fault)


class FaultPlan:
    """Which fault strikes whom, and when.

    Args:
        faults: Faults, at most one of each kind.
        seed: Seed; the same draws the same faults.
    """

    def __init__(self, faults: Iterable[Fault] = (), seed: int = 0):
        self.faults, self.seed = tuple(faults), seed
        kinds = [type(fault).__name__ for fault in self.faults]
        if repeated := {kind for kind in kinds if kinds.count(kind) > 1}:
            raise BadInput(f"faults name {', '.join(sorted(repeated))} twice: give each kind once")

    def __bool__(self) -> bool:
        return any(fault.rate > 0 for fault in self.faults)

    def strikes(self, kind: type[F], message: Message) -> tuple[F, np.random.Generator] | None:
        """Return the fault of this kind if it strikes the message, and the generator of its details."""
        for place, fault in enumerate(self.faults):
            if isinstance(fault, kind) and message.metadata.message_type.startswith("train"):
                node = message.metadata.dst_node_id
                rng = np.random.default_rng([self.seed, place, round_of(message) or 0, node])
                return (fault, rng) if rng.random() < fault.rate else None
        return None

    def refusal(self, message: Message) -> tuple[str, bool] | None:
        """Return why a message is not answered in time and whether it is answered later; None if it is."""
        if self.strikes(Dropout, message):
            return "the client dropped out", False
        if struck := self.strikes(Straggler, message):
            fault, rng = struck
            if (delay := rng.exponential(fault.delay)) > fault.deadline:
                return f"the client took {delay:.0f} s, past the deadline of {fault.deadline:g} s", True
        return None


def damaged(content: RecordDict, fault: Corrupt, rng: np.random.Generator) -> RecordDict:
    """Return the content as it arrives from a client whose memory or line is broken."""
    damage = str(rng.choice(DAMAGES)) if fault.damage == "any" else fault.damage
    broken = content.copy()
    for name, record in records_of(content, ArrayRecord).items():
        arrays = from_record(record)
        # The last array: a wrong one among right ones must be found too.
        key = next((k for k in reversed(arrays) if damage != "nan" or arrays[k].dtype.kind == "f"), None)
        if key is None:
            continue
        array = np.array(arrays[key])
        if damage == "nan":
            array.flat[:1] = np.nan
        elif damage == "shape":
            array = np.concatenate([array.reshape(-1), array.reshape(-1)[:1]])
        elif damage == "dtype":
            array = array.astype(np.complex64)
        renamed = {key: "garbage"} if damage == "keys" else {}
        broken[name] = to_record({renamed.get(k, k): a for k, a in (arrays | {key: array}).items()})
    return broken
