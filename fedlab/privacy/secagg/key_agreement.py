"""What two clients agree on while a server carries their messages: keys, and envelopes that only they can open.

    k_ij = HKDF(X25519(secret_i, public_j), context) = HKDF(X25519(secret_j, public_i), context)

A client draws 32 random bytes once per aggregation, its root; every other secret of it is derived from them
under a name of its own, so asking it again changes nothing and what it must remember is small.

RFC 7748, https://www.rfc-editor.org/rfc/rfc7748; RFC 5869, https://www.rfc-editor.org/rfc/rfc5869.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from functools import cached_property, lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedlab.errors import BadInput
from fedlab.privacy.mechanisms.noise_source import check_entropy
from fedlab.randomness import rng_for

KEY_BYTES = 32
TAG_BYTES = 16
DIGEST_BYTES = 16


def fresh(entropy: str, seed: int, purpose: str, num_bytes: int = KEY_BYTES) -> bytes:
    """Return random bytes: of the operating system ('os'), or those that the seed repeats ('seeded')."""
    if check_entropy(entropy) == "os":
        return secrets.token_bytes(num_bytes)
    return rng_for(seed, purpose).bytes(num_bytes)


def derive(secret: bytes, *context: bytes) -> bytes:
    """Return 32 bytes that say nothing of the secret, nor of those of any other context."""
    info = b"".join(len(part).to_bytes(4) + part for part in context)
    return HKDF(hashes.SHA256(), KEY_BYTES, None, info).derive(secret)


def public_of(secret: bytes) -> bytes:
    """Return the public key of a secret one, 32 bytes each."""
    return _private(secret).public_key().public_bytes_raw()


@dataclass(frozen=True)
class Secrets:
    """What follows from a client's root: a key to seal with, a key to mask with, and the seed of its self mask."""

    root: bytes

    @cached_property
    def seals(self) -> bytes:
        """Secret half of the first public key."""
        return derive(self.root, b"sealing key")

    @cached_property
    def masks(self) -> bytes:
        """Secret half of the second; its shares are revealed if the client is lost."""
        return derive(self.root, b"masking key")

    @cached_property
    def self_mask(self) -> bytes:
        """b; its shares are revealed if the client is in the sum."""
        return derive(self.root, b"self mask")

    @cached_property
    def publics(self) -> tuple[bytes, bytes]:
        """Return both public keys."""
        return public_of(self.seals), public_of(self.masks)


def agree(secret: bytes, public: bytes, *context: bytes) -> bytes:
    """Return the 32 bytes that the holders of both secret keys share; a BadInput where the public key is none."""
    try:
        return derive(_private(secret).exchange(X25519PublicKey.from_public_bytes(public)), *context)
    except ValueError as error:  # of another length, or a point of small order
        raise BadInput(f"{public.hex()} is no public key: it was tampered with") from error


def link_of(session: bytes, one: int, other: int) -> bytes:
    """Return what names two clients, in the same way for both."""
    return session + min(one, other).to_bytes(8) + max(one, other).to_bytes(8)


def pair_seed(secret: bytes, public: bytes, session: bytes, one: int, other: int) -> bytes:
    """Return the seed of the mask that two clients share."""
    return agree(secret, public, b"pair mask", link_of(session, one, other))


def seal(key: bytes, sender: bytes, content: bytes, about: bytes) -> bytes:
    """Return the content in an envelope, 16 bytes longer, that tells whether anything of it was changed.

    Args:
        key: Key that `agree` returned; used for one envelope each way.
        sender: Bytes, 8, that tell the two ways apart.
        content: Bytes that only the other shall read.
        about: Bytes that need not be secret, but must be the same for both.
    """
    return ChaCha20Poly1305(key).encrypt(sender.rjust(12, b"\0"), content, about)


def unseal(key: bytes, sender: bytes, sealed: bytes, about: bytes) -> bytes | None:
    """Return what `seal` was given; None if the envelope or what it is about was tampered with."""
    try:
        return ChaCha20Poly1305(key).decrypt(sender.rjust(12, b"\0"), sealed, about)
    except InvalidTag:
        return None


def digest(*parts: bytes) -> bytes:
    """Return 16 bytes by which random secrets can be recognised, and not found."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(4) + part)
    return sha.digest()[:DIGEST_BYTES]


@lru_cache(maxsize=4)  # making the key of these bytes takes half as long as agreeing with another
def _private(secret: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(secret)
