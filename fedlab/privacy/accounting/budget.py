"""A budget of privacy, and whose: at most epsilon at delta, for one sample or one client, added, removed or replaced.

    P[M(D) in S] <= e^epsilon P[M(D') in S] + delta        for every S and all neighbours D, D'

The unit says what the neighbours differ in, the relation how. Numbers of different units or relations belong to
different budgets and are never added: a client may hold a thousand samples, and to replace one is to remove it
and to add another.

Dwork and Roth, The Algorithmic Foundations of Differential Privacy, 2014, https://doi.org/10.1561/0400000042.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedlab import checks
from fedlab.privacy.mechanisms.gaussian import check_budget
from fedlab.privacy.mechanisms.sensitivity import check_relation

UNITS = ("sample", "client")
"""What may differ between neighbours."""


@dataclass(frozen=True)
class PrivacyBudget:
    """The terms that a ledger keeps; as an element of a config, a strategy's `privacy`.

    Args:
        epsilon: Cap, > 0: nothing is released that would pass it. None is no cap and only keeps count.
        delta: Delta in (0, 1) that every epsilon of the ledger is meant at.
        unit: Unit of privacy: 'sample' or 'client'.
        relation: Relation of neighbours: 'add_remove' or 'replace_one'.

    Raises:
        BadInput: One of them is out of range or unknown.
    """

    epsilon: float | None = None
    delta: float = 1e-5
    unit: str = "sample"
    relation: str = "add_remove"

    def __post_init__(self) -> None:
        check_budget(1.0 if self.epsilon is None else self.epsilon, self.delta)
        checks.choice("unit", self.unit, UNITS)
        check_relation(self.relation)

    @classmethod
    def of(cls, privacy: Any) -> PrivacyBudget:
        """Return the terms of whatever has them: its `delta`, `unit` and `relation`, its `cap` or else its `epsilon`.

        Raises:
            BadInput: One of them is out of range or unknown.
        """
        cap = getattr(privacy, "cap", None)
        return cls(privacy.epsilon if cap is None else cap, privacy.delta, privacy.unit, privacy.relation)
