"""The ledger: who has been told how much, before it is told.

    charge     refuse what would pass the cap; else write it down, and only then return
    spent      one epsilon at the budget's delta, for a client or for whoever spent most

A charge that returned is counted for ever: nothing is refunded, neither for a message that was never sent nor for
data deleted later. A charge that did not return was not counted, and its caller has released nothing. A release
with an id that is known, and all else the same, is the replay of the same bits and costs nothing again.

`composition` says how releases compose, `accounts` about whom.

Rogers, Roth, Ullman and Vadhan, Privacy Odometers and Filters, NeurIPS 2016, https://arxiv.org/abs/1605.08294.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedlab.errors import BadInput
from fedlab.privacy.accounting.budget import PrivacyBudget
from fedlab.privacy.accounting.composition import Composition
from fedlab.privacy.accounting.journal import Journal, Line, read
from fedlab.privacy.accounting.per_client import Accounts
from fedlab.privacy.accounting.release import Release

SLACK = 1e-9
"""Share of the cap that rounding may pass it by: noise calibrated for a cap must fit under it."""
_BUDGET = "promise"
"""Key of the budget in a journal: what it was called when the first ones were written."""


class BudgetSpent(BadInput):
    """A release would pass the cap. Carries what was spent, what it would come to, and the cap."""

    def __init__(self, labels: str, whose: str, spent: float, after: float, budget: PrivacyBudget):
        self.spent, self.after, self.cap = spent, after, budget.epsilon
        super().__init__(
            f"{labels}: {whose} would come to epsilon={after:.4g} at delta={budget.delta:g} per {budget.unit}, "
            f"past the cap of {budget.epsilon:g}; {spent:.4g} is spent and is never refunded. Release less, with "
            "more noise, leave those clients out, or give a larger cap from the start"
        )


class Ledger(AbstractContextManager["Ledger"]):
    """What was released about whom, on disk before it is released.

    A private strategy has an attribute `privacy`, a PrivacyBudget or an object with its `delta`, `unit`,
    `relation` and, as `cap` or else `epsilon`, the cap. The ServerApp then sets its attribute `ledger` before the
    first round, and the strategy calls `ledger.charge` before noise is drawn or clients are asked. Checkpoints
    keep the ledger like any attribute; a strategy with a `state_dict` of its own puts `ledger.state_dict()` there.

    Args:
        budget: Cap, delta, unit and relation.
        path: File of the journal. None keeps the ledger in memory alone.

    Raises:
        BadInput: The journal is another's, damaged, or made for another unit or relation.

    Examples:
        >>> ledger = Ledger(PrivacyBudget(epsilon=1.0))
        >>> ledger.charge(Release("round 1", "noisy statistics", "gaussian", noise_multiplier=4.0))
        >>> epsilon, delta = ledger.spent()
        >>> round(epsilon, 2)
        0.93
    """

    def __init__(self, budget: PrivacyBudget, path: Path | str | None = None):
        self.budget, self.path = budget, None if path is None else Path(path)
        self._releases: dict[str, Release] = {}
        self._accounts = Accounts()
        self._guard = threading.RLock()
        self._journal = None if self.path is None else Journal(self.path)
        if self._journal is None:
            return
        try:
            before, releases = _content(self._journal.path, self._journal.lines)
            for other in before:
                if (other.unit, other.relation) != (budget.unit, budget.relation):
                    raise BadInput(
                        f"{path} counts per {other.unit} ({other.relation}), this run per {budget.unit} "
                        f"({budget.relation}): these have no common number; give the run a folder of its own"
                    )
            self._commit(self._new(releases))
            if not before or before[-1] != budget:
                self._journal.append([{_BUDGET: asdict(budget)}])
        except BaseException:
            self.close()
            raise

    @classmethod
    def read(cls, path: Path | str) -> Ledger:
        """Return what a journal says, in memory and unchanged; a BadInput where it is none, or damaged."""
        budgets, releases = _content(Path(path), read(Path(path)))
        if not budgets:
            raise BadInput(f"{path} does not say its budget: it is no ledger, or holds nothing yet")
        ledger = cls(budgets[-1])
        ledger._commit(ledger._new(releases))
        return ledger

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another ledger have the journal; what was spent can still be read, and nothing charged."""
        if self._journal is not None:
            self._journal.close()

    # -- spending ------------------------------------------------------------------------------------------------

    def charge(self, *releases: Release) -> None:
        """Count releases, all or none, but for those that are known, bit for bit; only then may they happen.

        Raises:
            BudgetSpent: Somebody's epsilon would pass the cap. Nothing is charged.
            BadInput: A release is of another unit or relation, its id stands for another release, or the journal
                cannot be written. Nothing is charged.
        """
        with self._guard:
            new = self._new(releases)
            if not new:
                return
            self._check_cap(new)
            self._enter(new)

    def affords(self, *releases: Release) -> bool:
        """Return whether `charge` would take these: for choosing whom to ask."""
        with self._guard:
            try:
                self._check_cap(self._new(releases))
            except BudgetSpent:
                return False
            return True

    def _new(self, releases: Iterable[Release]) -> list[Release]:
        new: dict[str, Release] = {}
        for release in releases:
            terms = (release.unit, release.relation)
            if terms != (self.budget.unit, self.budget.relation):
                raise BadInput(
                    f"release {release.label!r} is about one {release.unit} ({release.relation}), the ledger about one "
                    f"{self.budget.unit} ({self.budget.relation}): these are different budgets and have no "
                    "common number; keep a ledger for each"
                )
            known = self._releases.get(release.id) or new.get(release.id)
            if known is not None and known != release:
                raise BadInput(
                    f"release {release.label!r} has the id {release.id} of another, {known.label!r}: equal ids mean "
                    "equal bits; give what is drawn anew fresh_id()"
                )
            if known is None:
                new[release.id] = release
        return list(new.values())

    def _check_cap(self, new: list[Release]) -> None:
        cap, delta = self.budget.epsilon, self.budget.delta
        if cap is None:
            return
        excess = self._accounts.plus(new).past(cap * (1 + SLACK), delta, new)
        if excess is not None:
            client, epsilon = excess
            labels = ", ".join(dict.fromkeys(release.label for release in new))
            whose = "everyone" if client is None else f"client {client}"
            raise BudgetSpent(labels, whose, self._accounts.of(client).epsilon(delta), epsilon, self.budget)

    def _enter(self, new: list[Release]) -> None:
        if new and self._journal is not None:
            self._journal.append({"release": release.values()} for release in new)
        self._commit(new)

    def _commit(self, new: list[Release]) -> None:
        self._accounts = self._accounts.plus(new)
        self._releases |= {release.id: release for release in new}

    # -- saying --------------------------------------------------------------------------------------------------

    @property
    def releases(self) -> tuple[Release, ...]:
        """Everything that was charged, in its order."""
        return tuple(self._releases.values())

    def spent(self, client: int | None = None) -> tuple[float, float]:
        """Return (epsilon, delta) of a client; of None, the most that anyone has spent, which holds for all."""
        accounts, delta = self._accounts, self.budget.delta
        return accounts.most(delta) if client is None else accounts.of(client).epsilon(delta), delta

    def groups(self) -> dict[Composition, list[int]]:
        """Return the clients by what was released about them, the most first; those that none names are without ids."""
        return self._accounts.groups(self.budget.delta)

    def statement(self) -> dict[str, Any]:
        """Return what `results.json` says under `privacy`; an epsilon that cannot be stated is null."""
        epsilon, delta = self.spent()
        return {
            "epsilon": epsilon if math.isfinite(epsilon) else None,
            "delta": delta,
            "unit": self.budget.unit,
            "relation": self.budget.relation,
            "cap": self.budget.epsilon,
            "releases": len(self._releases),
            "mechanisms": sorted({release.mechanism for release in self.releases}),
            "clients": len(self._accounts.own) or None,
        }

    # -- keeping -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"releases": [json.dumps(release.values()) for release in self.releases]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Add what a checkpoint knows and this ledger does not; nothing is taken back, and no cap applies to it.

        Raises:
            BadInput: The checkpoint and the ledger mean different releases by one id, or the journal cannot be
                written.
        """
        with self._guard:
            self._enter(self._new(Release.of(json.loads(text)) for text in state["releases"]))


def opened(privacy: object, path: Path | str | None) -> AbstractContextManager[Ledger | None]:
    """Open the ledger of a strategy's `privacy` for the length of a run; None where it has none."""
    return nullcontext() if privacy is None else Ledger(PrivacyBudget.of(privacy), path)


def _content(path: Path, lines: Iterable[Line]) -> tuple[list[PrivacyBudget], list[Release]]:
    budgets, releases = [], []
    for line in lines:
        if set(line) == {_BUDGET}:
            try:
                budgets.append(PrivacyBudget(**line[_BUDGET]))
            except TypeError as error:
                raise BadInput(f"{path} is no ledger of this version: {error}") from error
        elif set(line) == {"release"}:
            releases.append(Release.of(line["release"]))
        else:
            raise BadInput(f"{path} is no ledger: it says {', '.join(line) or 'nothing'}")
    return budgets, releases


def required(ledger: Ledger | None) -> Ledger:
    """Return the ledger of a private strategy.

    Raises:
        BadInput: Nobody gave it one: nothing may be released that is not counted.
    """
    if ledger is None:
        raise BadInput("a private strategy needs a ledger: set strategy.ledger before it runs")
    return ledger
