"""Masks: a seed of 32 bytes becomes a vector of uniform integers modulo 2^64.

    PRG(seed) = AES-256 in counter mode under the key `seed`, read as 64-bit words

Adding it to a vector modulo 2^64 is a one-time pad of that vector; subtracting it restores every bit, negative
entries in two's complement included. A seed is used for one vector only, so the counter may begin at 0. The
words are little-endian on every machine.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from fedlab.errors import BadInput

SEED_BYTES = 32
BLOCK = 2**15
"""Words expanded at a time: they are added while they lie in a core's cache."""
_ZEROS = bytes(8 * BLOCK)


def add_mask(total: np.ndarray, seed: bytes, sign: int = 1) -> None:
    """Add the mask of a seed of 32 bytes to a vector in place, (L,) uint64; with `sign` -1, take it away."""
    if total.dtype != np.uint64 or total.ndim != 1:
        raise BadInput(f"a mask cannot be added to {total.dtype}{list(total.shape)}: give a vector of uint64")
    encryptor = _encryptor(seed)
    room = bytearray(8 * min(BLOCK, len(total)) + 16)  # OpenSSL asks for room of one more block
    words, zeros = np.frombuffer(room, "<u8"), memoryview(_ZEROS)
    change = np.add if sign > 0 else np.subtract
    for start in range(0, len(total), BLOCK):
        part = total[start : start + BLOCK]
        encryptor.update_into(zeros[: 8 * len(part)], room)
        change(part, words[: len(part)], out=part)


def keystream(seed: bytes, num_bytes: int) -> bytes:
    """Return the first bytes of a seed's mask."""
    return _encryptor(seed).update(bytes(num_bytes))


def _encryptor(seed: bytes) -> CipherContext:
    if len(seed) != SEED_BYTES:
        raise BadInput(f"a mask's seed of {len(seed)} bytes: give {SEED_BYTES}")
    return Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor()
