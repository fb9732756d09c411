"""The certificate of a deletion: what the sums and the head were, what was subtracted, what they are now.

    S' = S - s        W' = solve(S')        retrained: S'' = sum over who is left, W'' = solve(S'')

In exact mode S' = S'' and W' = W'' bit for bit, so equal digests are the proof: no sum of integers tells whether
a client was ever in it. In float64 sums round, and |W' - W''| / |W''| is held against `TOLERANCE`. Certificates form
a chain, for each begins with the digests that the one before ended with.

A certificate says what the sums hold. It does not say that nobody has copied a former head, nor that what was
released of it is taken back: no privacy that was spent is refunded by a deletion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from fedlab import checks
from fedlab.errors import BadInput

TOLERANCE = 1e-9
"""Largest relative difference of two heads over float64 sums of the same samples."""
DIGITS = 16
"""Of a digest that people compare by eye."""


@dataclass(frozen=True)
class Retrained:
    """What a training without the deleted comes to.

    Attributes:
        source: Source that it was summed from: the statistics that were kept, or the data.
        statistics, head: Digests.
        difference: Relative difference |W' - W''| / |W''|.
        equal: Whether that is what the deletion left: the same digests in exact mode, within the tolerance in
            float64.
    """

    source: str
    statistics: str
    head: str
    difference: float
    equal: bool


@dataclass(frozen=True)
class DeletionCertificate:
    """What changed.

    Attributes:
        kind: Kind: 'deletion', or 'addition' of a client that comes back.
        time: Time in UTC.
        clients: Clients that it is about.
        rows: Rows of the training split; None for all that the clients had.
        samples: Number of samples.
        mode: Number system of the sums: 'exact' or 'float64'.
        tolerance: Tolerance of the heads' difference, 0 in exact mode.
        statistics_before, statistics_after, head_before, head_after: Digests of the sums and of the heads.
        changed: Digest of what was subtracted, or added.
        retrained: Training that it was checked against; None where it was not.
    """

    kind: str
    time: str
    clients: tuple[int, ...]
    rows: tuple[int, ...] | None
    samples: int
    mode: str
    tolerance: float
    statistics_before: str
    statistics_after: str
    changed: str
    head_before: str
    head_after: str
    retrained: Retrained | None = None

    def __post_init__(self) -> None:
        checks.choice("kind", self.kind, ("deletion", "addition"))

    def values(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> DeletionCertificate:
        """Return the certificate that `values` once wrote; a BadInput where something is missing, or not known."""
        try:
            retrained = Retrained(**values["retrained"]) if values["retrained"] else None
            rows = values["rows"]
            lists = {"clients": tuple(values["clients"]), "rows": None if rows is None else tuple(rows)}
            return cls(**{**values, **lists, "retrained": retrained})
        except (KeyError, TypeError) as error:
            raise BadInput(
                f"this is no certificate ({error}): expected {', '.join(field.name for field in fields(cls))}"
            ) from error

    def checked(
        self, source: str, statistics: str, head: str, weight: Float64[Tensor, "d c"], retrained: Float64[Tensor, "d c"]
    ) -> DeletionCertificate:
        """Return the certificate with what a training without the deleted comes to.

        Args:
            source, statistics, head: Source and digests of that training.
            weight, retrained: Head W' that the certificate is about, and W'' of that training.
        """
        difference = relative(weight, retrained)
        equal = difference <= self.tolerance
        if self.tolerance == 0:
            equal = equal and (statistics, head) == (self.statistics_after, self.head_after)
        return replace(self, retrained=Retrained(source, statistics, head, difference, equal))

    def lines(self) -> list[tuple[str, str]]:
        """Return what people read, name and value; of digests the first digits."""
        one = len(self.clients) == 1
        who = f"client{'' if one else 's'} {', '.join(map(str, self.clients))}"
        which = "" if self.rows is not None else "all of its " if one else "all of their "
        exact = self.tolerance == 0
        lines = [
            (self.kind, f"{who}: {which}{self.samples} samples"),
            ("number system", f"{self.mode}, {'equal bits' if exact else f'equal to {self.tolerance:g}'}"),
            ("statistics", _change(self.statistics_before, self.statistics_after)),
            ("subtracted" if self.kind == "deletion" else "added", self.changed[:DIGITS]),
            ("head", _change(self.head_before, self.head_after)),
        ]
        if self.retrained:
            equal = "equal" if self.retrained.equal else "NOT EQUAL"
            lines += [
                (f"retrained from {self.retrained.source}", self.retrained.head[:DIGITS]),
                ("which is", f"{equal}, difference {self.retrained.difference:.1e}"),
            ]
        return lines


def _change(before: str, after: str) -> str:
    return f"{before[:DIGITS]} -> {after[:DIGITS]}"


def relative(a: Tensor, b: Tensor) -> float:
    """Return |a - b| / |b|; 0 where both are zero."""
    if a.shape != b.shape:
        return math.inf
    distance, size = float(torch.linalg.norm(a - b)), float(torch.linalg.norm(b))
    return distance / size if size else (0.0 if distance == 0 else math.inf)


def check_chain(certificates: Sequence[DeletionCertificate], head: str) -> None:
    """Refuse certificates that do not follow from each other, or do not end with this head.

    Raises:
        BadInput: Names the first that does not.
    """
    for number, (one, after) in enumerate(pairwise(certificates), start=1):
        if (one.statistics_after, one.head_after) != (after.statistics_before, after.head_before):
            raise BadInput(
                f"certificate {number + 1} does not begin where certificate {number} ended: one was changed or lost"
            )
    if certificates and (last := certificates[-1].head_after) != head:
        raise BadInput(f"the last certificate ends with head {last[:12]}, and the head is {head[:12]}: one was changed")
