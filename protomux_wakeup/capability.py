"""The secret that the peers of a topic share, and how they prove it. Knows no channel.

A proof is BLAKE2b-256 over a constant of the prover's role, the capability, and the handshake
hash of the stream. It is good for one stream and one direction only, so a peer cannot pass on
what it was shown.
"""

from __future__ import annotations

import hmac
from typing import Final

from protomux.crypto import KEY_SIZE, discovery_key, hash, namespace
from protomux.encoding import BytesLike

__all__ = ["Capability"]

_INITIATOR, _RESPONDER = namespace("wakeup", 2)


class Capability:
    """A capability and the topic id that it is known under.

    Attributes:
        id: 32 bytes, the discovery key of the secret unless the application chose another.
    """

    __slots__ = ("_secret", "id")

    def __init__(self, secret: BytesLike, id: BytesLike | None = None) -> None:
        """Take 32 secret bytes; with an `id` of the application's own, any number but none.

        Raises ValueError for other sizes, TypeError for what is not bytes.
        """
        if not isinstance(secret, bytes | bytearray | memoryview):
            raise TypeError(f"expected a capability of bytes, got {type(secret).__name__}")
        self._secret: Final = bytes(secret)
        if id is None:
            if len(self._secret) != KEY_SIZE:
                raise ValueError(f"expected a capability of 32 bytes, got {len(self._secret)}")
            self.id = discovery_key(self._secret)
            return
        if not self._secret:
            raise ValueError("expected a capability of 1 byte or more, got none")
        self.id = bytes(id)
        if len(self.id) != KEY_SIZE:
            raise ValueError(f"expected a discovery_key of 32 bytes, got {len(self.id)}")

    def __repr__(self) -> str:
        return f"<Capability {self.id.hex()[:16]}>"

    def prove(self, is_initiator: bool, handshake_hash: bytes) -> bytes:
        """Return the 32-byte proof of the initiator, or of the responder, of a stream."""
        role = _INITIATOR if is_initiator else _RESPONDER
        return hash(role, self._secret, handshake_hash)

    def verify(self, proof: bytes, is_initiator: bool, handshake_hash: bytes) -> bool:
        """Tell, in constant time, whether the initiator (or responder) made `proof`."""
        return hmac.compare_digest(proof, self.prove(is_initiator, handshake_hash))

    def is_same_secret(self, other: Capability) -> bool:
        """Tell, in constant time, whether both hold the same secret."""
        return hmac.compare_digest(self._secret, other._secret)
