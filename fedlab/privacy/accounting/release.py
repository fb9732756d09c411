"""A release: one thing that left somebody's hands, and what is known of its noise.

    gaussian             N(0, m^2) per unit of sensitivity, `steps` times
    subsampled_gaussian  the same over a Poisson sample: everyone with probability q, by itself (DP-SGD)
    cohort_gaussian      the same over a cohort of fixed size, drawn without replacement, (size, of how many)
    renyi                a curve: at most this Renyi divergence at these orders (Skellam, discrete Gaussian)
    pure                 epsilon (votes, Laplace, d_chi queries)
    stated               (epsilon, delta), by whoever made the mechanism

m, the noise multiplier, is the standard deviation over the L2 sensitivity under the release's own relation: where
one is replaced by another, over the distance that this can move the sum, which for contributions of norm at most
C is 2 C and not C.

Two releases with the same id are the same bits: the replay of a seeded draw after a break is not another release.
A fresh draw of noise is, and takes a fresh id.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.privacy.accounting.budget import UNITS
from fedlab.privacy.mechanisms.gaussian import check_multiplier
from fedlab.privacy.mechanisms.sensitivity import check_relation

NEEDS = {
    "gaussian": ("noise_multiplier",),
    "subsampled_gaussian": ("noise_multiplier",),
    "cohort_gaussian": ("noise_multiplier", "cohort"),
    "renyi": ("curve",),
    "pure": ("epsilon",),
    "stated": ("epsilon", "delta"),
}
"""The mechanisms, and what must be given of each."""
_GIVEN = ("noise_multiplier", "cohort", "curve", "epsilon", "delta")


@dataclass(frozen=True)
class Release:
    """One release, as the ledger keeps it.

    Args:
        id: Name of the bits: see `seeded_id` and `fresh_id`.
        label: Words for people: 'dp_afl: noisy statistics, round 1'.
        mechanism: Key of `NEEDS`.
        noise_multiplier: Noise multiplier m > 0 of the Gaussian mechanisms.
        sampling_probability: Probability q in (0, 1] of a Poisson sample.
        steps: Number of times that the mechanism ran: 1, 2, ...
        epsilon, delta: Cost of pure and stated; epsilon >= 0, delta in [0, 1).
        cohort: Size of a cohort of fixed size, and of how many it was drawn.
        curve: Pairs (order > 1, divergence >= 0) by rising order. Between two orders the larger one's value is used,
            which is never too small, for the divergence rises with the order.
        clients: Ids of those it is about; None for everyone.
        unit, relation: Unit of privacy and relation of neighbours, as a `PrivacyBudget` has them.

    Raises:
        BadInput: A value is out of range, missing, or not the mechanism's.
    """

    id: str
    label: str
    mechanism: str
    noise_multiplier: float | None = None
    sampling_probability: float = 1.0
    steps: int = 1
    epsilon: float | None = None
    delta: float | None = None
    cohort: tuple[int, int] | None = None
    curve: tuple[tuple[float, float], ...] | None = None
    clients: tuple[int, ...] | None = None
    unit: str = "sample"
    relation: str = "add_remove"

    def __post_init__(self) -> None:
        if not self.id:
            raise BadInput("a release without an id cannot be told from its replay: give it fresh_id()")
        checks.choice("mechanism", self.mechanism, NEEDS)
        checks.choice("unit", self.unit, UNITS)
        check_relation(self.relation)
        for name in _GIVEN:
            if (getattr(self, name) is None) == (name in NEEDS[self.mechanism]):
                verb = "needs" if name in NEEDS[self.mechanism] else "has no"
                raise BadInput(f"release {self.label!r}: {self.mechanism} {verb} {name}")
        if self.noise_multiplier is not None:
            check_multiplier(self.noise_multiplier)
        checks.integer(f"release {self.label!r}: steps", self.steps, least=1)
        self._check_sampling()
        if self.epsilon is not None:
            checks.number(f"release {self.label!r}: epsilon", self.epsilon, least=0)
        if self.delta is not None:
            checks.number(f"release {self.label!r}: delta", self.delta, least=0, below=1)
        if self.curve is not None:
            _check_curve(self.label, self.curve)
        if self.clients is not None:
            if not self.clients:
                raise BadInput(f"release {self.label!r} names no client: clients=None is everyone")
            if min(self.clients) < 0:
                raise BadInput(f"release {self.label!r} is about client {min(self.clients)}: ids begin at 0")
            object.__setattr__(self, "clients", tuple(sorted({int(client) for client in self.clients})))

    def _check_sampling(self) -> None:
        q = self.sampling_probability
        checks.number(f"release {self.label!r}: sampling_probability", q, above=0, most=1)
        if q != 1 and self.mechanism != "subsampled_gaussian":
            raise BadInput(f"release {self.label!r}: sampling_probability={q} belongs to subsampled_gaussian")
        if q != 1 and self.relation != "add_remove":
            raise BadInput(
                f"release {self.label!r}: a Poisson sample has no fixed size, and its bound here is for "
                "relation=add_remove; for replace_one draw cohorts of a fixed size (cohort_gaussian)"
            )
        if self.cohort is not None:
            if self.relation != "replace_one":
                raise BadInput(
                    f"release {self.label!r}: the size of a cohort is fixed, and its bound is for "
                    "relation=replace_one; for add_remove sample each by itself (subsampled_gaussian)"
                )
            size, population = self.cohort
            if not 1 <= size <= population:
                raise BadInput(f"release {self.label!r}: cohort={self.cohort} must be (size, of how many)")

    def values(self) -> dict[str, Any]:
        """Return what differs from the defaults, as JSON has it; clients as '0-99,120'."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        values |= {"unit": self.unit, "relation": self.relation}  # never to be guessed by a reader
        if self.clients is not None:
            values["clients"] = ranges(self.clients)
        return values

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Release:
        """Return the release that `values` once described; a BadInput where it describes none."""
        known = dict(values)
        try:
            if known.get("clients") is not None:
                known["clients"] = numbers(known["clients"])
            if known.get("cohort") is not None:
                known["cohort"] = tuple(known["cohort"])
            if known.get("curve") is not None:
                known["curve"] = tuple((float(order), float(value)) for order, value in known["curve"])
            return cls(**known)
        except (TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"this is no release: {dict(values)} ({error})") from error


def seeded_id(*parts: object) -> str:
    """Return the id of a draw that a seed repeats: equal parts, equal id.

    Args:
        *parts: Parts that its bits depend on, all of them: method, seed, round, who took part, a digest of what the
            noise is added to. The same noise on two different sums would give away their difference, so what is left
            out here is forgotten by the ledger.
    """
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:32]


def fresh_id() -> str:
    """Return an id that no other release has: for noise that nothing repeats."""
    return secrets.token_hex(16)


def id_of(entropy: str, *parts: object) -> str:
    """Return the id of a draw: `seeded_id` of the parts where the source is 'seeded', `fresh_id` where it is 'os'."""
    return seeded_id(*parts) if entropy == "seeded" else fresh_id()


def ranges(clients: Iterable[int]) -> str:
    """Return rising ids as '0-99,120'."""
    pairs: list[list[int]] = []
    for client in clients:
        if pairs and client == pairs[-1][1] + 1:
            pairs[-1][1] = client
        else:
            pairs.append([client, client])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs)


def numbers(text: str) -> tuple[int, ...]:
    """Return the ids that `ranges` wrote."""
    ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
    return tuple(client for pair in ends for client in range(pair[0], pair[-1] + 1))


def _check_curve(label: str, curve: tuple[tuple[float, float], ...]) -> None:
    orders = [order for order, _ in curve]
    if not curve or orders != sorted(set(orders)) or not 1 < orders[0] < math.inf:
        raise BadInput(f"release {label!r}: a curve needs pairs by rising order > 1, not {curve[:3]}")
    if any(not value >= 0 for _, value in curve):
        raise BadInput(f"release {label!r}: a Renyi divergence is >= 0: {curve[:3]}")
