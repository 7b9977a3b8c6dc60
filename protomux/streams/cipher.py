"""The cipher of a secret stream after its handshake. Knows keys and messages, no transport.

libsodium's secretstream (XChaCha20-Poly1305) in each direction, tag MESSAGE, no associated data;
`secretstream` makes and reads its messages. Any tag of the peer is accepted, as the original does.
Before the first message each side sends a header of 56 bytes: a stream id, which only someone
with the handshake hash can know, and the start of its secretstream.
"""

from __future__ import annotations

import hmac
from hashlib import blake2b
from typing import Final

from nacl.bindings import (
    crypto_secretstream_xchacha20poly1305_ABYTES,
    crypto_secretstream_xchacha20poly1305_HEADERBYTES,
    crypto_secretstream_xchacha20poly1305_init_pull,
    crypto_secretstream_xchacha20poly1305_init_push,
)
from nacl.exceptions import CryptoError

from protomux.crypto import HASH_SIZE, namespace
from protomux.encoding import BytesLike
from protomux.errors import ProtocolError
from protomux.speedups import twin
from protomux.streams.secretstream import State, backend_for

__all__ = ["HEADER_SIZE", "OVERHEAD", "Decryptor", "Encryptor", "stream_id"]

OVERHEAD: Final[int] = crypto_secretstream_xchacha20poly1305_ABYTES
"""Bytes by which a message grows: 17."""

HEADER_SIZE: Final[int] = HASH_SIZE + crypto_secretstream_xchacha20poly1305_HEADERBYTES
"""Bytes of the header: 56."""

_INITIATOR, _RESPONDER = namespace("hyperswarm/secret-stream", 2)


def stream_id(is_initiator: bool, handshake_hash: bytes) -> bytes:
    """Return the 32 bytes by which the initiator, or the responder, begins its header."""
    role = _INITIATOR if is_initiator else _RESPONDER
    return blake2b(role, digest_size=HASH_SIZE, key=handshake_hash).digest()


@twin
class Encryptor:
    """The sending half.

    Attributes:
        header: 56 bytes to send before the first message.
    """

    __slots__ = (
        "_state",
        "header",
    )

    def __init__(self, key: bytes, is_initiator: bool, handshake_hash: bytes) -> None:
        self._state = State()
        start = crypto_secretstream_xchacha20poly1305_init_push(self._state, key)
        self.header: Final = stream_id(is_initiator, handshake_hash) + start

    def encrypt(self, plaintext: BytesLike, length_size: int = 0) -> bytes:
        """Return the message of `plaintext`, which is 17 bytes longer.

        In front of it stands its length, little endian, in so many bytes: whoever puts it there
        later has to copy the message once more.
        """
        size = len(plaintext)
        length = (size + OVERHEAD).to_bytes(length_size, "little") if length_size else b""
        return b"".join((length, *backend_for(size).push(self._state, plaintext)))


@twin
class Decryptor:
    """The receiving half, of a peer that is the initiator if `is_initiator`."""

    __slots__ = (
        "_expected_id",
        "_key",
        "_state",
    )

    def __init__(self, key: bytes, is_initiator: bool, handshake_hash: bytes) -> None:
        self._key = key
        self._expected_id = stream_id(is_initiator, handshake_hash)
        self._state = State()

    def start(self, header: bytes) -> None:
        """Take the peer's header; raises ProtocolError if it is not of this stream."""
        if len(header) != HEADER_SIZE:
            raise ProtocolError(f"expected a header of {HEADER_SIZE} bytes, got {len(header)}")
        if not hmac.compare_digest(header[:HASH_SIZE], self._expected_id):
            raise ProtocolError("expected the id of this stream in the header, got another")
        crypto_secretstream_xchacha20poly1305_init_pull(self._state, header[HASH_SIZE:], self._key)

    def decrypt(self, data: BytesLike, start: int = 0, end: int | None = None) -> bytes:
        """Return the plaintext of the next message, which is `data[start:end]`.

        Raises ProtocolError for one that was changed, is out of order or too short.
        """
        # Let go of both, also where somebody keeps the error, and with it this frame.
        with memoryview(data) as view, view[start:end] as message:
            if len(message) < OVERHEAD:
                raise ProtocolError(
                    f"expected a message of {OVERHEAD} bytes or more, got {len(message)}"
                )
            try:
                return backend_for(len(message) - OVERHEAD).pull(self._state, message)
            except CryptoError as error:
                raise ProtocolError("a message of the peer does not authenticate") from error
