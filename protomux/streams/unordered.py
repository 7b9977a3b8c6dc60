"""Encrypted messages that may be lost, come twice, or in any order. Knows keys, no transport.

A message is a counter of 8 bytes, then libsodium's secretbox (XSalsa20-Poly1305) under the counter,
filled up with zeros, as its nonce. Each direction has a key of its own: BLAKE2b-256, keyed with the
handshake hash, over the namespace of the sender's role and that of these messages. The counter
begins anywhere and goes up by 1, little endian, modulo 2^64.

The originals take a message as often as it comes. Here one comes through once: `WINDOW` counters
below the highest are remembered, as in RFC 4303, section 3.4.3, and older ones are refused.
"""

from __future__ import annotations

from hashlib import blake2b
from secrets import randbits
from typing import Final

from nacl.bindings import (
    crypto_secretbox_easy,
    crypto_secretbox_MACBYTES,
    crypto_secretbox_NONCEBYTES,
    crypto_secretbox_open_easy,
)
from nacl.exceptions import CryptoError

from protomux.crypto import HASH_SIZE, namespace
from protomux.encoding import BytesLike

__all__ = ["OVERHEAD", "WINDOW", "Unordered"]

_COUNTER_SIZE: Final = 8
_COUNTERS: Final = 2 ** (8 * _COUNTER_SIZE)

OVERHEAD: Final[int] = _COUNTER_SIZE + crypto_secretbox_MACBYTES
"""Bytes by which a message grows: 24."""

WINDOW: Final = 1024
"""Messages by which one may be late; RFC 4303 recommends at least 64."""

_PADDING: Final = bytes(crypto_secretbox_NONCEBYTES - _COUNTER_SIZE)
_INITIATOR, _RESPONDER, _SEND = namespace("hyperswarm/secret-stream", 3)


class Unordered:
    """Both directions of one stream."""

    __slots__ = ("_counter", "_first", "_highest", "_key", "_peer_key", "_seen")

    def __init__(self, is_initiator: bool, handshake_hash: bytes) -> None:
        roles = (_INITIATOR, _RESPONDER) if is_initiator else (_RESPONDER, _INITIATOR)
        self._key, self._peer_key = (
            blake2b(role + _SEND, digest_size=HASH_SIZE, key=handshake_hash).digest()
            for role in roles
        )
        self._counter = self._first = randbits(8 * _COUNTER_SIZE)
        self._highest: int | None = None
        self._seen = 0  # bit n: the counter that is n below the highest

    def seal(self, data: BytesLike) -> bytes:
        """Return the message of `data`. Raises OverflowError when all 2^64 counters were used."""
        counter = (self._counter + 1) % _COUNTERS
        if counter == self._first:
            raise OverflowError("expected fewer than 2^64 messages")
        self._counter = counter
        start = counter.to_bytes(_COUNTER_SIZE, "little")
        sealed: bytes = crypto_secretbox_easy(bytes(data), start + _PADDING, self._key)
        return start + sealed

    def open(self, message: BytesLike) -> bytes | None:
        """Return what is in a message of the peer; None if it is none, or came before."""
        if len(message) < OVERHEAD:
            return None
        start = bytes(message[:_COUNTER_SIZE])
        counter = int.from_bytes(start, "little")
        if not self._is_new(counter):
            return None
        try:
            data: bytes = crypto_secretbox_open_easy(
                bytes(message[_COUNTER_SIZE:]), start + _PADDING, self._peer_key
            )
        except CryptoError:
            return None
        self._remember(counter)
        return data

    def _ahead(self, counter: int) -> int:
        """Return by how much it is beyond the highest; less than 0 for one below."""
        assert self._highest is not None
        ahead = (counter - self._highest) % _COUNTERS
        return ahead if ahead < _COUNTERS // 2 else ahead - _COUNTERS

    def _is_new(self, counter: int) -> bool:
        if self._highest is None:
            return True
        ahead = self._ahead(counter)
        return ahead > 0 or (-ahead < WINDOW and not self._seen >> -ahead & 1)

    def _remember(self, counter: int) -> None:
        """One that authenticates: only the peer can move the window."""
        ahead = 0 if self._highest is None else self._ahead(counter)
        if ahead >= 0:
            self._highest = counter
            self._seen = (self._seen << min(ahead, WINDOW) | 1) & (1 << WINDOW) - 1
        else:
            self._seen |= 1 << -ahead
