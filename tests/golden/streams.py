"""Handshakes and streams that choose nothing at random, for what the originals recorded.

A recording fixes the ephemeral key of a handshake and the header of a secretstream. Neither can
be asked for in this library, so they are put in the place of the random ones here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from nacl.bindings import crypto_secretstream_xchacha20poly1305_init_pull as init_pull

from protomux.crypto import KeyPair
from protomux.streams import SecretStream, cipher, noise
from tests.golden.replay import Vector


def static_keys(side: Vector) -> KeyPair:
    """Return the static keys of one side of a recording."""
    return KeyPair.generate(bytes.fromhex(side["static_seed"]))


def fixed_ephemeral(side: Vector) -> Any:
    """Let handshakes use the ephemeral key of one side of a recording."""
    pair = KeyPair.generate(bytes.fromhex(side["ephemeral_seed"]))
    return patch.object(KeyPair, "generate", return_value=pair)


class Side(noise.Handshake):
    """One side of a recorded handshake."""

    def __init__(self, vector: Vector, role: str) -> None:
        is_initiator = role == "initiator"
        knows_peer = is_initiator and vector["pattern"] != "XX"
        super().__init__(
            vector["pattern"],
            is_initiator,
            static_keys(vector[role]),
            static_keys(vector["responder"]).public_key if knows_peer else None,
        )
        self.recorded = vector[role]

    def write(self) -> bytes:
        with fixed_ephemeral(self.recorded):
            return super().write()


@contextmanager
def fixed_header(header: bytes) -> Iterator[None]:
    """Let encryptors begin with `header`: a state made for pulling can push as well."""

    def init_push(state: Any, key: bytes) -> bytes:
        init_pull(state, header, key)
        return header

    with patch.object(cipher, "crypto_secretstream_xchacha20poly1305_init_push", init_push):
        yield


def ciphers(vector: Vector) -> tuple[cipher.Encryptor, cipher.Decryptor]:
    key, handshake_hash = bytes.fromhex(vector["key"]), bytes(64)
    with fixed_header(bytes.fromhex(vector["header"])):
        encryptor = cipher.Encryptor(key, True, handshake_hash)
    decryptor = cipher.Decryptor(key, True, handshake_hash)
    decryptor.start(encryptor.header)
    return encryptor, decryptor


class RecordingTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class RecordedSide:
    """A `SecretStream` that plays one side of a recorded conversation.

    Attributes:
        transport: keeps the bytes that it sent.
        frames: the frames that it received.
    """

    def __init__(self, vector: Vector, role: str) -> None:
        is_initiator = role == "initiator"
        knows_peer = is_initiator and vector["pattern"] != "XX"
        self.recorded = vector[role]
        self.transport = RecordingTransport()
        self.frames: list[bytes] = []
        self.stream = SecretStream(
            is_initiator,
            key_pair=static_keys(self.recorded),
            remote_public_key=static_keys(vector["responder"]).public_key if knows_peer else None,
            pattern=vector["pattern"],
        )
        self.stream.set_receiver(self)

    def receive(self, data: bytes, chunk: int) -> None:
        """Begin, and take everything that the peer sends, `chunk` bytes at a time."""
        with fixed_ephemeral(self.recorded), fixed_header(bytes.fromhex(self.recorded["header"])):
            self.stream.connection_made(self.transport)
            for start in range(0, len(data), chunk):
                self.stream.data_received(data[start : start + chunk])

    def frame_received(self, frame: bytes) -> None:
        self.frames.append(frame)

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None: ...
