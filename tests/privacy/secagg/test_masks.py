"""Masks: the stream cipher's own words, taken off again to the bit, and uniform."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy.stats import chisquare

from fedlab.errors import BadInput
from fedlab.privacy.secagg.masks import BLOCK, add_mask, keystream

SEED = bytes(range(32))


def mask(seed, words):
    total = np.zeros(words, np.uint64)
    add_mask(total, seed)
    return total


def test_a_mask_is_the_cipher_in_counter_mode():
    # Block i is the encryption of the number i: NIST SP 800-38A, section 6.5, with its counter at 0.
    blocks = b"".join(
        Cipher(algorithms.AES256(SEED), modes.ECB()).encryptor().update(i.to_bytes(16)) for i in range(300)
    )
    assert mask(SEED, 600).astype("<u8").tobytes() == blocks == keystream(SEED, len(blocks))


@pytest.mark.parametrize("words", [0, 1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_what_is_added_is_taken_off_again(words):
    vector = np.arange(-words // 2, -words // 2 + words)
    total = vector.view(np.uint64).copy()
    add_mask(total, SEED)
    assert not words or (total != vector.view(np.uint64)).any()
    assert (total - mask(SEED, words) == vector.view(np.uint64)).all()
    add_mask(total, SEED, -1)
    assert (total.view(np.int64) == vector).all()
    assert mask(SEED, words).astype("<u8").tobytes() == keystream(SEED, 8 * words)


def test_masks_of_two_seeds_differ_and_a_mask_is_uniform():
    one, other = mask(SEED, 2**16), mask(SEED[::-1], 2**16)
    assert (one != other).mean() > 0.999
    for found in (one, other, one - other):
        assert chisquare(np.bincount(found.view(np.uint8), minlength=256)).pvalue > 1e-4


def test_what_is_no_seed_or_no_vector_of_words_is_refused():
    with pytest.raises(BadInput, match="a mask's seed of 31 bytes: give 32"):
        mask(SEED[1:], 4)
    with pytest.raises(BadInput, match=r"int64\[4\]: give a vector of uint64"):
        add_mask(np.zeros(4, np.int64), SEED)
