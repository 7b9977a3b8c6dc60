"""A genuine conversation, cut or changed at every byte, dripped, empty, or half-hearted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Final

from tests.attacks import wire
from tests.attacks.attack import MARK, Fate, Outcome, Target, attack, settled
from tests.attacks.connection import Connection, Lost

__all__ = ["empty_frames", "flipped", "truncated"]

_AT_ONCE: Final = 20  # conversations
_FLIPPED_WAIT: Final = 0.3  # seconds for a handshake that may never go on


class _Mangler:
    """Passes bytes on until it comes to one offset."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.position = 0
        self.is_there = asyncio.Event()

    def cut(self, data: bytes) -> bytes:
        """Let nothing through from the offset on."""
        left = max(0, self.offset - self.position)
        self.position += len(data)
        if self.position >= self.offset:
            self.is_there.set()
        return data[:left]

    def flip(self, data: bytes) -> bytes:
        """Flip a bit of the byte at the offset."""
        index = self.offset - self.position
        self.position += len(data)
        if 0 <= index < len(data):
            changed = bytearray(data)
            changed[index] ^= 1 << (self.offset % 8)
            return bytes(changed)
        return data


async def _speak(target: Target, connection: Connection) -> bytes:
    """Be a genuine insider: a handshake, an open, and a lookup, whose hash is returned."""
    hash = MARK + os.urandom(24)
    target.forbidden[hash] = 0
    await connection.shake()
    connection.listen()
    await target.join(connection)
    await connection.send(wire.frame(1, wire.lookup(hash)))
    return hash


async def _length(target: Target) -> int:
    """Return how many bytes a genuine client sends."""
    connection = await target.dial()
    connection.is_recording = True
    hash = await _speak(target, connection)
    target.forbidden[hash] = 1
    await connection.until(lambda: connection.messages > 0)
    connection.leave()
    return len(connection.sent)


async def _for_each_byte(target: Target, one: Callable[[int], Awaitable[bool]]) -> Outcome:
    """Run `one` for every offset; it tells whether the victim let go of the connection."""
    length = await _length(target)
    alive: list[int] = []
    for first in range(0, length, _AT_ONCE):
        offsets = range(first, min(first + _AT_ONCE, length))
        gone = await asyncio.gather(*map(one, offsets))
        alive += [offset for offset, is_gone in zip(offsets, gone, strict=True) if not is_gone]
    if alive:
        return Outcome(Fate.IGNORED, f"{len(alive)} of {length}, first {alive[:3]}")
    return Outcome(Fate.DESTROYED, f"{length} conversations")


@attack("truncated", Fate.DESTROYED)
async def truncated(target: Target, _size: int) -> Outcome:
    """Cut a genuine conversation after n bytes, for every n, in order and at once in turn."""

    async def one(offset: int) -> bool:
        mangler = _Mangler(offset)
        connection = await target.dial(mangle=mangler.cut)
        speaking = asyncio.ensure_future(_speak(target, connection))
        await mangler.is_there.wait()
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)
        if offset % 2:
            connection.leave()
            return True
        connection.end()
        return await connection.wait_lost(target.handshake_time + target.patience)

    return await _for_each_byte(target, one)


@attack("flipped", Fate.DESTROYED)
async def flipped(target: Target, _size: int) -> Outcome:
    """Flip a bit of each byte of a genuine conversation in turn; then end our half."""

    async def one(offset: int) -> bool:
        connection = await target.dial(mangle=_Mangler(offset).flip)
        # A length that says more than there is makes the victim wait for the rest.
        speaking = asyncio.ensure_future(_speak(target, connection))
        await asyncio.wait({speaking}, timeout=_FLIPPED_WAIT)
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)
        connection.end()
        return await connection.wait_lost(target.handshake_time + target.patience)

    return await _for_each_byte(target, one)


@attack("drip-after-handshake", Fate.IGNORED, Fate.DESTROYED, full=200, small=10)
async def drip(target: Target, size: int) -> Outcome:
    """Many open streams, each with a byte a second of a frame that says it has 16 MiB."""
    connections = [await target.connect() for _ in range(size)]
    for byte in b"\xff\xff\xff" + os.urandom(3):
        for connection in connections:
            await connection.send_raw(bytes([byte]))
        await asyncio.sleep(min(1.0, target.handshake_time / 10))
    return Outcome(Fate.IGNORED, f"{size} streams")


@attack("half-frames-16MiB", Fate.IGNORED, Fate.DESTROYED, Fate.PAUSED, full=8, small=2)
async def half_frames(target: Target, size: int) -> Outcome:
    """Open streams that send nearly all of a frame of 16 MiB, and then no more."""
    for _ in range(size):
        connection = await target.connect()
        await connection.send_raw(b"\xff\xff\xff" + bytes(2**24 - 100))
    await asyncio.sleep(min(1.0, target.handshake_time / 10))
    return Outcome(Fate.IGNORED, f"{size} streams")


@attack("empty-frames", Fate.IGNORED, Fate.DESTROYED, full=200_000, small=5000)
async def empty_frames(target: Target, size: int) -> Outcome:
    """Frames without a byte."""
    connection = await target.connect()
    for _ in range(0, size, 100):
        await connection.send(*[b""] * 100)
    return await settled(connection, 1)


@attack("empty-ciphertext", Fate.DESTROYED)
async def empty_ciphertext(target: Target, _size: int) -> Outcome:
    """A message of no bytes, where one that is encrypted must be."""
    connection = await target.connect()
    await connection.send_message(b"")
    return await settled(connection, 1)


@attack("empty-body", Fate.DESTROYED)
async def empty_body(target: Target, _size: int) -> Outcome:
    """A frame that ends behind its channel."""
    connection = await target.connect()
    await connection.send(b"\x01")
    return await settled(connection, 1)


@attack("empty-batch", Fate.DESTROYED, Fate.IGNORED)
async def empty_batch(target: Target, _size: int) -> Outcome:
    """Batches without a message, and one without a channel."""
    connection = await target.connect()
    await connection.send(b"\x00\x00\x01", b"\x00\x00\x00", b"\x00\x00")
    return await settled(connection, 1)


@attack("empty-names", Fate.REJECTED, Fate.DESTROYED)
async def empty_names(target: Target, _size: int) -> Outcome:
    """Opens without a protocol, without an id, and a wakeup without an id."""
    connection = await target.connect()
    await connection.send(
        wire.frame(0, wire.opening(1, "")),
        wire.frame(0, wire.opening(2, "", b"id")),
        wire.frame(0, wire.opening(3, "wakeup")),
    )
    return await settled(connection, 4)


@attack("names-not-utf8", Fate.DESTROYED, why_not_node="the originals replace such bytes")
async def not_utf8(target: Target, _size: int) -> Outcome:
    """An open whose protocol is no text."""
    connection = await target.connect()
    await connection.send(b"\x00\x01\x01\x02\xff\xfe\x00")
    return await settled(connection, 1)


@attack("pause-and-leave", Fate.REJECTED, Fate.PAUSED, Fate.DESTROYED, full=100, small=3)
async def pause_and_leave(target: Target, size: int) -> Outcome:
    """Have the victim pause the stream with more to read behind it, and be gone."""
    frame = wire.frame(1, b"\x00" + bytes(60_000))
    for _ in range(size):
        connection = await target.connect()
        await connection.send(wire.frame(0, wire.opening(1, "async-pair", b"never")))
        await connection.send(*[frame] * 20)
    return await settled(connection, 2)


@attack("garbage-frames", Fate.DESTROYED, full=500, small=30)
async def garbage_frames(target: Target, size: int) -> Outcome:
    """Random bytes as a batch, an open, a reject and a close, on a stream of its own for each."""
    destroyed = 0
    for number in range(size):
        connection = await target.connect()
        try:
            await connection.send(bytes([0, number % 4]) + os.urandom(40))
            await connection.fence(1)
        except Lost:
            destroyed += 1
        connection.leave()
    return Outcome(Fate.DESTROYED if destroyed else Fate.IGNORED, f"{destroyed:,} of {size:,}")
