"""Shamir's shares: any t give the secret, fewer fit every secret, a wrong one is noticed by who knows a digest."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlab.errors import BadInput
from fedlab.privacy.secagg.shamir import PRIME, SECRET_BYTES, SHARE_BYTES, combine, split

SEED = bytes(range(32))
secrets = st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)


def shares(secret, threshold, points):
    return dict(zip(points, split(secret, threshold, points, SEED), strict=True))


def is_prime(n):
    """Miller and Rabin, 40 rounds: a composite passes with probability below 4^-40."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    rng = random.Random(0)
    for _ in range(40):
        x = pow(rng.randrange(2, n - 1), odd, n)
        if x in (1, n - 1):
            continue
        if not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
            return False
    return True


def test_the_field_is_one_and_holds_every_secret():
    assert is_prime(PRIME) and not is_prime(PRIME + 2)
    assert 2 ** (8 * SECRET_BYTES) < PRIME <= 2 ** (8 * SHARE_BYTES)


@given(secret=secrets, threshold=st.integers(1, 6), more=st.integers(0, 3), draw=st.randoms())
def test_any_threshold_of_shares_gives_the_secret(secret, threshold, more, draw):
    points = draw.sample(range(1, 100), threshold + more)
    given_out = shares(secret, threshold, points)
    chosen = draw.sample(points, threshold)
    assert combine({point: given_out[point] for point in chosen}, threshold) == secret


def test_every_subset_of_the_threshold_will_do():
    given_out = shares(b"s" * 32, 3, [1, 2, 3, 7, 250])
    for some in itertools.combinations(given_out, 3):
        assert combine({point: given_out[point] for point in some}, 3) == b"s" * 32


def test_fewer_shares_than_the_threshold_fit_every_secret():
    # Two shares of a line's three: through them and any secret at 0 runs one parabola.
    given_out = shares(b"s" * 32, 3, [1, 2, 3])
    for secret in (bytes(32), b"\xff" * 32, b"x" * 32):
        at_zero, one, two = (int.from_bytes(value) for value in (secret, given_out[1], given_out[2]))
        third = (at_zero - 3 * one + 3 * two) % PRIME  # the third difference of a parabola is zero
        assert combine({1: given_out[1], 2: given_out[2], 3: third.to_bytes(33)}, 3) == secret


def test_shares_of_one_secret_under_two_seeds_have_nothing_in_common():
    one = split(b"s" * 32, 2, [1, 2], SEED)
    assert not set(one) & set(split(b"s" * 32, 2, [1, 2], SEED[::-1]))
    assert one == split(b"s" * 32, 2, [1, 2], SEED)


@given(secret=secrets, place=st.integers(0, 2), bit=st.integers(0, 8 * SECRET_BYTES - 1))
def test_a_share_that_was_tampered_with_gives_another_secret_or_none(secret, place, bit):
    given_out = shares(secret, 3, [1, 2, 3])
    point = place + 1
    changed = int.from_bytes(given_out[point]) ^ (1 << bit)
    given_out[point] = changed.to_bytes(SHARE_BYTES)
    try:
        assert combine(given_out, 3) != secret
    except BadInput as error:
        assert "do not belong to one secret" in str(error)


def test_what_cannot_be_shared_or_combined_is_refused():
    for secret, threshold, points, why in (
        (b"short", 2, [1, 2], "a secret of 5 bytes"),
        (bytes(32), 3, [1, 2], "3 of 2 shares"),
        (bytes(32), 0, [1, 2], "0 of 2 shares"),
        (bytes(32), 2, [0, 1], "above 0"),
        (bytes(32), 2, [1, 1], "distinct"),
    ):
        with pytest.raises(BadInput, match=why):
            split(secret, threshold, points, SEED)
    given_out = shares(bytes(32), 3, [1, 2, 3])
    del given_out[2]
    with pytest.raises(BadInput, match="2 shares of a secret are there: 3 are needed"):
        combine(given_out, 3)
    with pytest.raises(BadInput, match="the share at 2 has 1 bytes, not 33"):
        combine({**given_out, 2: b"x"}, 3)
