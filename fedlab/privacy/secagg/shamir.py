"""Shamir's secret sharing: any t of n shares give the secret, fewer say nothing about it.

    f(z) = secret + a_1 z + ... + a_(t-1) z^(t-1)  mod p        share at z = f(z)        secret = f(0)

The a_i are uniform, so any t - 1 values of f fit every secret alike. A wrong share gives a wrong secret and
nobody is told by the arithmetic: whoever combines must know a digest of what has to come out.

Shamir, How to share a secret, 1979, https://doi.org/10.1145/359168.359176.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

from fedlab.errors import BadInput
from fedlab.privacy.secagg.masks import keystream

PRIME = 2**256 + 297
"""The smallest prime above every secret of 32 bytes."""
SECRET_BYTES = 32
SHARE_BYTES = 33
WIDE = 48
"""Bytes drawn for a coefficient: reduced modulo p they are uniform up to 2^-127."""


def split(secret: bytes, threshold: int, points: Sequence[int], seed: bytes) -> list[bytes]:
    """Return the shares of a secret at these points.

    Args:
        secret: Secret of 32 bytes.
        threshold: Number of shares t >= 1 that give the secret.
        points: Places where f is evaluated: distinct and not 0. Small numbers are fast.
        seed: Secret seed of 32 bytes, from which the coefficients are drawn; used for nothing else.

    Raises:
        BadInput: The secret has another length, a point is 0 or comes twice, or there are fewer points than
            `threshold`.
    """
    if len(secret) != SECRET_BYTES:
        raise BadInput(f"a secret of {len(secret)} bytes cannot be shared: give {SECRET_BYTES}")
    if not 1 <= threshold <= len(points):
        raise BadInput(f"{threshold} of {len(points)} shares cannot give a secret: the threshold is 1 to all")
    if len(set(points)) < len(points) or not all(0 < point < PRIME for point in points):
        raise BadInput(f"shares at the points {sorted(points)[:5]}...: give distinct ones above 0")
    drawn = keystream(seed, WIDE * (threshold - 1))
    coefficients = [int.from_bytes(drawn[i : i + WIDE]) % PRIME for i in range(0, len(drawn), WIDE)]
    coefficients.append(int.from_bytes(secret))

    def f(z: int) -> int:  # Horner's rule; the secret is the last coefficient: f(0)
        return reduce(lambda value, a: (value * z + a) % PRIME, coefficients, 0)

    return [f(point).to_bytes(SHARE_BYTES) for point in points]


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret from shares by their points.

    Raises:
        BadInput: There are fewer than `threshold`, one is no share, or they are not of one secret.
    """
    if len(shares) < threshold:
        raise BadInput(f"{len(shares)} shares of a secret are there: {threshold} are needed")
    points = sorted(shares)[:threshold]
    if wrong := [point for point in points if len(shares[point]) != SHARE_BYTES]:
        raise BadInput(f"the share at {wrong[0]} has {len(shares[wrong[0]])} bytes, not {SHARE_BYTES}")
    total = 0
    for point in points:
        above = below = 1
        for other in points:
            if other != point:
                above = above * other % PRIME
                below = below * (other - point) % PRIME
        total += int.from_bytes(shares[point]) * above * pow(below, -1, PRIME)
    secret = total % PRIME
    if secret >= 2 ** (8 * SECRET_BYTES):
        raise BadInput(f"these {threshold} shares do not belong to one secret: one was tampered with")
    return secret.to_bytes(SECRET_BYTES)
