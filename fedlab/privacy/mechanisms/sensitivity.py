"""How much one sample, or one client, can move the statistics that are released.

    (G, C) = sum_i (x_i x_i', x_i y_i'),    |x_i| <= B,  |y_i| <= T,    in the norm |(G, C)|^2 = |G|_F^2 + |C|_F^2

    add or remove one    sqrt(B^4 + B^2 T^2)
    replace one          sqrt(2 B^4 + 2 B^2 T^2 + T^4 / 2)  where T^2 <= 2 B^2,  2 B T otherwise

The second is the largest |xx' - zz'|^2 + |xy' - zw'|^2 = 2 B^4 - 2 t^2 + 2 B^2 T^2 + 2 t T^2 over t = x'z, found
at opposite targets and t = min(B^2, T^2 / 2). One-hot targets are never opposite, so for them it is an upper
bound. For a client it is the bound S its whole statistics are clipped to: S, or 2 S where it is replaced.

x_i a row of d features, y_i its target over c classes.
"""

from __future__ import annotations

import math

from fedlab import checks

SMALLEST = 1e-50
"""Bounds between this and its inverse can be raised to the fourth power."""
RELATIONS = ("add_remove", "replace_one")
"""Which data sets count as neighbours."""


def joint_sensitivity(clip: float, target: float = 1.0, relation: str = "add_remove") -> float:
    """Return the L2 sensitivity of (G, C) to one sample.

    Args:
        clip: Largest norm of a row, B > 0.
        target: Largest norm of a target, T > 0; 1 for one-hot.
        relation: Relation of neighbours: 'add_remove' or 'replace_one'.

    Raises:
        BadInput: A bound is not a positive number, or the relation unknown.
    """
    b, t = check_bound("clip", clip), check_bound("target", target)
    if check_relation(relation) == "add_remove":
        return math.hypot(b * b, b * t)
    if t * t <= 2 * b * b:
        return math.sqrt(2 * b**4 + 2 * b * b * t * t + t**4 / 2)
    return 2 * b * t


def cross_sensitivity(clip: float, target: float = 1.0, relation: str = "add_remove") -> float:
    """Return the L2 sensitivity of C alone, where G is public: B T, twice that where one is replaced."""
    bound = check_bound("clip", clip) * check_bound("target", target)
    return bound if check_relation(relation) == "add_remove" else 2 * bound


def client_sensitivity(bound: float, relation: str = "add_remove") -> float:
    """Return the L2 sensitivity to one client whose statistics are clipped to norm S: S, or 2 S if replaced."""
    return cross_sensitivity(bound, relation=relation)


def check_bound(name: str, value: float) -> float:
    """Return a bound that is one."""
    checks.number(name, value, above=0, remedy="without a bound there is no sensitivity")
    remedy = "scale the features to about 1"  # its fourth power must be a number
    return float(checks.number(name, value, least=SMALLEST, most=1 / SMALLEST, remedy=remedy))


def check_relation(relation: str) -> str:
    """Return a relation that is known."""
    return checks.choice("relation", relation, RELATIONS)
