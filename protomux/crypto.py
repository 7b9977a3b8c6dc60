"""Hashes, namespaces and key pairs. Knows the primitives, not what is proved with them."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from nacl.bindings import crypto_sign_keypair, crypto_sign_seed_keypair

__all__ = ["HASH_SIZE", "KEY_SIZE", "KeyPair", "discovery_key", "hash", "namespace"]

HASH_SIZE: Final = 32
KEY_SIZE: Final = 32
SECRET_KEY_SIZE: Final = 64
SEED_SIZE: Final = 32


def hash(*parts: bytes) -> bytes:
    """Return the 32-byte BLAKE2b of all `parts`, one after the other."""
    return blake2b(b"".join(parts), digest_size=HASH_SIZE).digest()


def discovery_key(key: bytes) -> bytes:
    """Return the 32-byte discovery key of a 32-byte key: BLAKE2b of "hypercore", keyed with it.

    It names the key without telling it. Raises ValueError for a key of another size.
    """
    if len(key) != KEY_SIZE:
        raise ValueError(f"expected a key of {KEY_SIZE} bytes, got {len(key)}")
    return blake2b(b"hypercore", digest_size=HASH_SIZE, key=key).digest()


def namespace(name: str, count: int) -> list[bytes]:
    """Return `count` (at most 256) 32-byte domain separators of a protocol's `name`."""
    if not 0 <= count <= 256:
        raise ValueError(f"expected a count from 0 to 256, got {count}")
    root = hash(name.encode())
    return [hash(root, bytes([index])) for index in range(count)]


@dataclass(frozen=True, slots=True, eq=False)
class KeyPair:
    """An Ed25519 key pair.

    Attributes:
        public_key: 32 bytes; who a peer is.
        secret_key: 64 bytes, the seed followed by the public key, as libsodium keeps it.
    """

    public_key: bytes
    secret_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.public_key) != KEY_SIZE:
            raise ValueError(f"expected a public key of 32 bytes, got {len(self.public_key)}")
        if len(self.secret_key) != SECRET_KEY_SIZE:
            raise ValueError(f"expected a secret key of 64 bytes, got {len(self.secret_key)}")

    @classmethod
    def generate(cls, seed: bytes | None = None) -> KeyPair:
        """Return a random key pair, or the one that belongs to a 32-byte `seed`."""
        if seed is None:
            return cls(*crypto_sign_keypair())
        if len(seed) != SEED_SIZE:
            raise ValueError(f"expected a seed of {SEED_SIZE} bytes, got {len(seed)}")
        return cls(*crypto_sign_seed_keypair(seed))

    @property
    def seed(self) -> bytes:
        """The 32 bytes that this key pair can be generated from again."""
        return self.secret_key[:SEED_SIZE]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeyPair):
            return NotImplemented
        return hmac.compare_digest(self.secret_key, other.secret_key)

    def __hash__(self) -> int:
        return self.public_key.__hash__()
