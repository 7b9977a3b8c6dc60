"""The Noise handshake of a secret stream. Knows its messages, not how they travel.

Noise (revision 34) with the patterns XX, IK and XK over Ed25519, ChaChaPoly and BLAKE2b. It
differs from the specification in one place, the one that the originals chose: DH is scalar
multiplication on the Edwards curve (libsodium's crypto_scalarmult_ed25519_noclamp), so that one
key pair signs and shakes hands.

Theory of operation. Both sides hold a hash of all that was sent (`_hash`) and a chaining key
(`_chain`), from which every Diffie-Hellman result derives the next key. A pattern lists, message
by message, which tokens are sent: `e` an ephemeral key, `s` a static key (encrypted once there is
a key), `ee es se ss` a Diffie-Hellman between the initiator's and the responder's key of that
letter. Messages alternate, the initiator's first. `_PATTERNS` is that list; `write` and `read`
walk through it, and after its last message the chaining key splits into the two cipher keys.
"""

from __future__ import annotations

from hashlib import blake2b, sha512
from hmac import digest as hmac_digest
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.bindings import crypto_scalarmult_ed25519_noclamp
from nacl.exceptions import CryptoError

from protomux.crypto import KeyPair
from protomux.errors import HandshakeError

__all__ = ["MAX_MESSAGE", "PATTERNS", "Handshake", "SplitKeys"]

MAX_MESSAGE: Final = 65535
"""Largest Noise message in bytes (Noise, section 3)."""

_KEY_SIZE: Final = 32
_TAG_SIZE: Final = 16


class _Pattern(NamedTuple):
    knows_responder: bool  # the initiator has the responder's static key beforehand
    messages: tuple[tuple[str, ...], ...]


_PATTERNS: Final = {
    "XX": _Pattern(False, (("e",), ("e", "ee", "s", "es"), ("s", "se"))),
    "IK": _Pattern(True, (("e", "es", "s", "ss"), ("e", "ee", "se"))),
    "XK": _Pattern(True, (("e", "es"), ("e", "ee"), ("s", "se"))),
}

PATTERNS: Final = tuple(_PATTERNS)
"""Names of the patterns that can be asked for."""


class SplitKeys(NamedTuple):
    """What a finished handshake leaves: 32-byte cipher keys and the 64-byte handshake hash."""

    send: bytes
    receive: bytes
    handshake_hash: bytes

    def __repr__(self) -> str:
        return "<SplitKeys>"


def _scalar(seed: bytes) -> bytes:
    """Return the clamped scalar of an Ed25519 seed (RFC 8032, section 5.1.5)."""
    digest = bytearray(sha512(seed).digest()[:_KEY_SIZE])
    digest[0] &= 248
    digest[31] &= 127
    digest[31] |= 64
    return bytes(digest)


def _dh(own: KeyPair, public_key: bytes) -> bytes:
    try:
        return crypto_scalarmult_ed25519_noclamp(_scalar(own.seed), public_key)
    except CryptoError as error:  # small order, not canonical, or not on the curve
        raise HandshakeError("the peer sent a key that is no valid Ed25519 point") from error


def _hkdf(chain: bytes, key: bytes) -> tuple[bytes, bytes]:
    """Return the two 64-byte outputs of Noise's HKDF (section 4.3)."""
    root = hmac_digest(chain, key, "blake2b")
    first = hmac_digest(root, b"\x01", "blake2b")
    return first, hmac_digest(root, first + b"\x02", "blake2b")


class Handshake:
    """One side of a handshake: `write()` and `read()` in turn until `keys` is there.

    Attributes:
        is_initiator: this side writes first.
        remote_public_key: the peer's static key, 32 bytes, as soon as it is known. When `keys` is
            there the peer has proved that it owns it, but for the responder of IK: the message that
            came there may be replayed, and only what comes next tells.
        keys: None until the last message.
    """

    def __init__(
        self,
        pattern: str,
        is_initiator: bool,
        key_pair: KeyPair,
        remote_public_key: bytes | None = None,
    ) -> None:
        """Begin a handshake of `pattern`, a name from `PATTERNS`, with the own static keys.

        The initiator of IK and XK must know the responder's key: ValueError otherwise.
        """
        if pattern not in _PATTERNS:
            raise ValueError(f"expected a pattern of {', '.join(PATTERNS)}, got {pattern!r}")
        knows_responder, self._messages = _PATTERNS[pattern]
        self.is_initiator: Final = is_initiator
        self.remote_public_key: bytes | None = None
        self.keys: SplitKeys | None = None
        self._static = key_pair
        self._ephemeral: KeyPair | None = None
        self._remote_ephemeral: bytes | None = None
        self._step = 0
        self._cipher: ChaCha20Poly1305 | None = None
        self._nonce = 0
        name = f"Noise_{pattern}_Ed25519_ChaChaPoly_BLAKE2b".encode()
        self._chain = self._hash = name.ljust(64, b"\x00")
        self._mix_hash(b"")  # the prologue
        if knows_responder:
            if is_initiator:
                if remote_public_key is None:
                    raise ValueError(f"expected a remote_public_key for the pattern {pattern}")
                self.remote_public_key = remote_public_key
                self._mix_hash(remote_public_key)
            else:
                self._mix_hash(key_pair.public_key)

    @property
    def is_our_turn(self) -> bool:
        """The next message is ours to write."""
        return self.keys is None and (self._step % 2 == 0) == self.is_initiator

    def write(self) -> bytes:
        """Return our next message, with an empty payload."""
        parts = []
        for token in self._messages[self._step]:
            if token == "e":
                self._ephemeral = KeyPair.generate()
                self._mix_hash(self._ephemeral.public_key)
                parts.append(self._ephemeral.public_key)
            elif token == "s":
                parts.append(self._encrypt(self._static.public_key))
            else:
                self._mix_dh(token)
        parts.append(self._encrypt(b""))
        self._advance()
        return b"".join(parts)

    def read(self, message: bytes) -> None:
        """Take the peer's next message; its payload is authenticated and ignored.

        Raises HandshakeError for anything that is not that message; the handshake is over then.
        """
        if len(message) > MAX_MESSAGE:
            raise HandshakeError(
                f"expected a Noise message of at most {MAX_MESSAGE} bytes, got {len(message)}"
            )
        position = 0

        def take(size: int) -> bytes:
            nonlocal position
            part = message[position : position + size]
            if len(part) < size:
                raise HandshakeError(f"a Noise message of {len(message)} bytes ends too early")
            position += size
            return part

        for token in self._messages[self._step]:
            if token == "e":
                self._remote_ephemeral = take(_KEY_SIZE)
                self._mix_hash(self._remote_ephemeral)
            elif token == "s":
                size = _KEY_SIZE if self._cipher is None else _KEY_SIZE + _TAG_SIZE
                self.remote_public_key = self._decrypt(take(size))
            else:
                self._mix_dh(token)
        self._decrypt(message[position:])
        self._advance()

    def _advance(self) -> None:
        self._step += 1
        if self._step == len(self._messages):
            first, second = (key[:_KEY_SIZE] for key in _hkdf(self._chain, b""))
            if not self.is_initiator:
                first, second = second, first
            self.keys = SplitKeys(first, second, self._hash)
            self._ephemeral = self._cipher = None

    def _mix_hash(self, data: bytes) -> None:
        self._hash = blake2b(self._hash + data).digest()

    def _mix_dh(self, token: str) -> None:
        own_letter, remote_letter = list(token if self.is_initiator else reversed(token))
        own = self._static if own_letter == "s" else self._ephemeral
        remote = self.remote_public_key if remote_letter == "s" else self._remote_ephemeral
        assert own is not None
        assert remote is not None
        self._chain, key = _hkdf(self._chain, _dh(own, remote))
        self._cipher = ChaCha20Poly1305(key[:_KEY_SIZE])
        self._nonce = 0

    def _next_nonce(self) -> bytes:
        nonce = bytes(4) + self._nonce.to_bytes(8, "little")
        self._nonce += 1
        return nonce

    def _encrypt(self, plaintext: bytes) -> bytes:
        if self._cipher is not None:
            plaintext = self._cipher.encrypt(self._next_nonce(), plaintext, self._hash)
        self._mix_hash(plaintext)
        return plaintext

    def _decrypt(self, ciphertext: bytes) -> bytes:
        plaintext = ciphertext
        if self._cipher is not None:
            try:
                plaintext = self._cipher.decrypt(self._next_nonce(), ciphertext, self._hash)
            except InvalidTag as error:
                raise HandshakeError("a Noise message does not authenticate") from error
        self._mix_hash(ciphertext)
        return plaintext
