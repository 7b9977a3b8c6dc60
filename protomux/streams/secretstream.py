"""libsodium's secretstream (XChaCha20-Poly1305) by two backends that share one state.

Knows one direction's state and its messages; neither where keys come from nor what is inside.
`SODIUM` asks libsodium, which is quick to start; `OPENSSL` puts the same bytes together from
OpenSSL's vectorised ChaCha20 and Poly1305, which are quicker a byte. `backend_for` chooses by size,
for one message: the next may be the other's, and the peer cannot tell.

The state is libsodium's: key (32 bytes), nonce (a counter of 32 bits, then 8 bytes), 8 unused.
ChaCha20 under that key and nonce gives, block by block of 64 bytes: 0, the key of Poly1305; 1, the
mask of a block that holds the tag and zeros; 2 and on, the mask of the plaintext. A message is the
first byte of block 1, the ciphertext, the MAC (over all of block 1, the ciphertext, some padding
and the lengths).

Why mixing them is safe. There is one nonce, in the state, and a message moves it on exactly once,
after its bytes are complete and before anyone has them: no nonce masks two messages. The MAC is
compared in constant time before any plaintext exists, and a message that fails leaves the state as
it was. A new key (the peer's tag asks for it, or the counter is at its end) is libsodium's work
alone; OpenSSL's context is made anew when the key in the state is not the one it has.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.poly1305 import Poly1305
from nacl._sodium import ffi, lib  # type: ignore[import-not-found]
from nacl.bindings import (
    crypto_secretstream_xchacha20poly1305_ABYTES,
    crypto_secretstream_xchacha20poly1305_state,
    crypto_secretstream_xchacha20poly1305_TAG_MESSAGE,
    crypto_secretstream_xchacha20poly1305_TAG_REKEY,
)
from nacl.exceptions import CryptoError

from protomux.encoding import BytesLike

__all__ = ["CROSSOVER", "OPENSSL", "SODIUM", "Backend", "State", "backend_for"]

CROSSOVER: Final = 20 * 1024
"""Bytes of plaintext from which OpenSSL is the quicker: 20 KiB.

`python -m bench cipher` puts it at 18 to 21 KB on x86-64 with AVX-512, PyNaCl 1.6 and cryptography
50 (at 19 to 28 KB with 45 to 49): a message takes libsodium some 3 µs and 0.95 ns a byte, OpenSSL
12 µs and 0.6 ns.
"""

_KEY_SIZE: Final = 32
_KEY: Final = slice(0, _KEY_SIZE)
_COUNTER: Final = slice(32, 36)
_NONCE: Final = slice(32, 44)

_OTHERS_COUNTERS: Final = (bytes(4), b"\xff" * 4)
"""Of a state that was never begun, since libsodium counts from 1, and the last of a key."""
_BLOCK: Final = 64
_MAC_SIZE: Final = 16
_FIRST_BLOCKS: Final = bytes(2 * _BLOCK)
_BLOCK_NUMBER: Final = bytes(4)
"""OpenSSL's nonce begins with the number of the first block."""


_BYTES: Final = ffi.typeof("unsigned char[]")
_new: Final = ffi.new_allocator(should_clear_after_alloc=False)
"""Memory for what libsodium writes. The allocator gives what was freed last, which the processor
still has at hand; memory that stayed with each of many idle streams would be far away."""


def _address_of(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


_PUSH, _PULL = (
    _address_of(ffi.addressof(lib, f"crypto_secretstream_xchacha20poly1305_{name}"))
    for name in ("push", "pull")
)


class State(crypto_secretstream_xchacha20poly1305_state):
    """One direction of a stream: PyNaCl's state, and OpenSSL's context from its first use on."""

    __slots__ = ("_chacha", "_chacha_key", "_memory")

    def __init__(self) -> None:
        super().__init__()
        self._chacha: CipherContext | None = None
        self._chacha_key = b""
        self._memory: Any = None

    def keystream(self) -> CipherContext | None:
        """Return ChaCha20 at block 0 of the next message.

        None where only libsodium may go on: when a new key follows the message, and before the
        state has a key at all.
        """
        if self._memory is None:
            self._memory = ffi.buffer(self.statebuf)
        memory = self._memory
        if memory[_COUNTER] in _OTHERS_COUNTERS:
            return None
        key, nonce = memory[_KEY], _BLOCK_NUMBER + memory[_NONCE]
        if self._chacha is None or key != self._chacha_key:
            self._chacha, self._chacha_key = Cipher(ChaCha20(key, nonce), None).encryptor(), key
        else:
            self._chacha.reset_nonce(nonce)
        return self._chacha

    def native(self) -> tuple[int, int, int, int]:
        """Return what compiled code needs to let libsodium make and read messages of this state.

        The addresses of libsodium's state, which lives as long as this one, of its `push` and of
        its `pull`; and `CROSSOVER`, from which messages are better made here.
        """
        return _address_of(self.statebuf), _PUSH, _PULL, CROSSOVER

    def advance(self, mac: BytesLike) -> None:
        """Step behind the message of `mac`: the counter goes up by 1, the rest takes the MAC in."""
        memory = self._memory
        nonce = int.from_bytes(memory[_NONCE], "little") + 1
        nonce ^= int.from_bytes(mac[:8], "little") << 32
        memory[_NONCE] = nonce.to_bytes(12, "little")


class Backend(Protocol):
    """One way to make and to read the messages of a state."""

    def push(self, state: State, plaintext: BytesLike) -> tuple[bytes, ...]:
        """Return the next message in parts: one, or several where to join them is to copy much.

        Of the tag MESSAGE, and 17 bytes longer than its plaintext.
        """

    def pull(self, state: State, message: BytesLike) -> bytes:
        """Return the plaintext of the next message, of 17 bytes or more, whatever its tag.

        Raises nacl.exceptions.CryptoError for one that does not authenticate.
        """


class _Sodium:
    """libsodium, called as PyNaCl's bindings call it.

    Not through them: they look at each argument as a user might have given it, which takes longer
    (2 µs) than libsodium takes for a small message.
    """

    def push(self, state: State, plaintext: BytesLike) -> tuple[bytes, ...]:
        plaintext = bytes(plaintext)
        size = len(plaintext)
        whole = size + crypto_secretstream_xchacha20poly1305_ABYTES
        memory = _new(_BYTES, whole)
        lib.crypto_secretstream_xchacha20poly1305_push(
            state.statebuf,
            memory,
            ffi.NULL,
            plaintext,
            size,
            ffi.NULL,
            0,
            crypto_secretstream_xchacha20poly1305_TAG_MESSAGE,
        )
        return (ffi.buffer(memory, whole)[:],)

    def pull(self, state: State, message: BytesLike) -> bytes:
        if state.tagbuf is None:
            raise CryptoError("expected a state that was begun with the header of the peer")
        message = bytes(message)
        size = len(message) - crypto_secretstream_xchacha20poly1305_ABYTES
        memory = _new(_BYTES, size)
        failed = lib.crypto_secretstream_xchacha20poly1305_pull(
            state.statebuf,
            memory,
            ffi.NULL,
            ffi.NULL,  # any tag will do
            message,
            len(message),
            ffi.NULL,
            0,
        )
        if failed:
            raise CryptoError("the MAC is another")
        plaintext: bytes = ffi.buffer(memory, size)[:]
        return plaintext


class _OpenSSL:
    """OpenSSL, as `cryptography` has it; what a new key follows is left to libsodium."""

    def push(self, state: State, plaintext: BytesLike) -> tuple[bytes, ...]:
        chacha = state.keystream()
        if chacha is None:
            return SODIUM.push(state, plaintext)
        start = chacha.update(_FIRST_BLOCKS)  # block 1 as it is: the tag MESSAGE is 0
        ciphertext = chacha.update(memoryview(plaintext).cast("B"))
        mac = _mac(start, start[_BLOCK:], ciphertext)
        state.advance(mac)
        return start[_BLOCK : _BLOCK + 1], ciphertext, mac

    def pull(self, state: State, message: BytesLike) -> bytes:
        chacha = state.keystream()
        if chacha is None:
            return SODIUM.pull(state, message)
        start = chacha.update(_FIRST_BLOCKS)
        view = memoryview(message).cast("B")
        if (view[0] ^ start[_BLOCK]) & crypto_secretstream_xchacha20poly1305_TAG_REKEY:
            return SODIUM.pull(state, message)
        ciphertext, mac = view[1:-_MAC_SIZE], view[-_MAC_SIZE:]
        tag_block = bytes(view[:1]) + start[_BLOCK + 1 :]
        if not compare_digest(_mac(start, tag_block, ciphertext), mac):
            raise CryptoError("the MAC is another")
        plaintext = chacha.update(ciphertext)
        state.advance(mac)
        return plaintext


def _mac(key: bytes, tag_block: bytes, ciphertext: BytesLike) -> bytes:
    size = len(ciphertext)
    poly1305 = Poly1305(key[:_KEY_SIZE])
    poly1305.update(tag_block)
    poly1305.update(ciphertext)
    # As many zeros as bytes are over after the last 16: not what would fill them up, but so it is
    # in libsodium. Then two lengths of 8 bytes: of associated data, none, and of all the rest.
    poly1305.update(bytes((size & 15) + 8) + (_BLOCK + size).to_bytes(8, "little"))
    return poly1305.finalize()


SODIUM: Final[Backend] = _Sodium()
OPENSSL: Final[Backend] = _OpenSSL()


def backend_for(size: int) -> Backend:
    """Return the quicker one for a plaintext of `size` bytes."""
    return SODIUM if size < CROSSOVER else OPENSSL
