"""Batches: one legal frame full of work, frames in frames, and frames as large as they can be."""

from __future__ import annotations

import os

from tests.attacks import wire
from tests.attacks.attack import Fate, Outcome, Target, attack, settled
from tests.attacks.connection import Connection

__all__ = ["bomb_open_channel", "large_frames", "nested"]

_MIB16 = wire.MAX_FRAME
_SMALL = 200_000  # bytes of a bomb in the tests
_LOOKUP, _INFOS = b"\x02\x00\x00", b"\x02\x02\x00\x02\x02\x01"


async def _sink(target: Target) -> Connection:
    connection = await target.connect()
    await connection.send(wire.frame(0, wire.opening(1, "sink")))
    await connection.until(lambda: any(b"sink" in body for body in connection.opens))
    return connection


@attack(
    "bomb-open-channel",
    Fate.IGNORED,
    Fate.DESTROYED,
    Fate.PAUSED,
    full=_MIB16,
    small=_SMALL,
)
async def bomb_open_channel(target: Target, size: int) -> Outcome:
    """One frame of empty messages for an open channel."""
    connection = await _sink(target)
    await connection.send(wire.filled(1, b"\x01\x00", size))
    return await settled(connection, 2)


@attack("bomb-unknown-channel", Fate.IGNORED, Fate.DESTROYED, full=_MIB16, small=_SMALL)
async def bomb_unknown_channel(target: Target, size: int) -> Outcome:
    """One frame of empty messages for a channel that never was."""
    connection = await target.connect()
    await connection.send(wire.filled(77, b"\x01\x00", size))
    return await settled(connection, 1)


@attack(
    "bomb-waiting-channel", Fate.REJECTED, Fate.DESTROYED, Fate.PAUSED, full=_MIB16, small=_SMALL
)
async def bomb_waiting_channel(target: Target, size: int) -> Outcome:
    """One frame of empty messages for a channel that is not paired yet: they are held."""
    connection = await target.connect()
    await connection.send(
        wire.frame(0, wire.opening(1, "async-pair", b"never")), wire.filled(1, b"\x01\x00", size)
    )
    return await settled(connection, 2)


@attack("bomb-opens", Fate.REJECTED, Fate.DESTROYED, Fate.PAUSED, full=_MIB16, small=_SMALL)
async def bomb_opens(target: Target, size: int) -> Outcome:
    """One frame of opens."""
    parts, left, number = [], size - 3, 0
    while True:
        number += 1
        body = wire.opening(number, "x")
        left -= 1 + len(body)
        if left < 0:
            break
        parts.append(body)
    connection = await target.connect()
    await connection.send(wire.batch(0, parts))
    return await settled(connection, number)


@attack("bomb-closes", Fate.IGNORED, Fate.DESTROYED, Fate.PAUSED, full=_MIB16, small=_SMALL)
async def bomb_closes(target: Target, size: int) -> Outcome:
    """One frame of closes of a channel that never was."""
    connection = await target.connect()
    await connection.send(wire.filled(0, b"\x02\x03\x09", size))
    return await settled(connection, 1)


@attack(
    "bomb-opens-and-closes", Fate.IGNORED, Fate.DESTROYED, Fate.PAUSED, full=_MIB16, small=_SMALL
)
async def bomb_opens_and_closes(target: Target, size: int) -> Outcome:
    """One frame that opens and closes a channel again and again."""
    connection = await target.connect()
    piece = b"".join(bytes([len(each)]) + each for each in (wire.opening(1, "sink"), wire.close(1)))
    await connection.send(wire.filled(0, piece, size))
    return await settled(connection, 1)


@attack("bomb-rejects", Fate.DESTROYED, full=_MIB16, small=_SMALL)
async def bomb_rejects(target: Target, size: int) -> Outcome:
    """One frame of rejects of what never was."""
    connection = await target.connect()
    await connection.send(wire.filled(0, b"\x02\x02\x09", size))
    return await settled(connection, 1)


@attack(
    "bomb-lookups",
    Fate.SERVED,
    Fate.DESTROYED,
    Fate.PAUSED,
    full=_MIB16,
    small=20_000,
)
async def bomb_lookups(target: Target, size: int) -> Outcome:
    """One frame of lookups by an insider; an answer is a thousand times as large."""
    connection = await target.connect()
    await target.join(connection)
    await connection.send(wire.filled(1, _LOOKUP, size))
    return await settled(connection, 2)


@attack(
    "bomb-infos",
    Fate.SERVED,
    Fate.IGNORED,
    Fate.DESTROYED,
    Fate.PAUSED,
    full=_MIB16,
    small=_SMALL,
)
async def bomb_infos(target: Target, size: int) -> Outcome:
    """One frame of an insider that becomes inactive and active again and again."""
    connection = await target.connect()
    await target.join(connection)
    await connection.send(wire.filled(1, _INFOS, size))
    return await settled(connection, 2)


@attack("batch-switches-only", Fate.IGNORED, Fate.DESTROYED, Fate.PAUSED, full=_MIB16, small=_SMALL)
async def switches_only(target: Target, size: int) -> Outcome:
    """One frame that switches the channel and says nothing."""
    connection = await target.connect()
    await connection.send(wire.filled(1, b"\x00\x01", size))
    return await settled(connection, 1)


def _nested(depth: int) -> bytes:
    parts, size = [wire.opening(1, "nobody")], 0
    size = len(parts[0])
    for _ in range(depth):
        head = b"\x00\x00" + wire.uint(size)  # type, channel, length of the body in it
        parts.append(head)
        size += len(head)
    return b"\x00" + b"".join(reversed(parts))


@attack("batch-in-batch", Fate.DESTROYED)
async def nested(target: Target, _size: int) -> Outcome:
    """A batch in a batch."""
    connection = await target.connect()
    await connection.send(_nested(2))
    return await settled(connection, 2)


@attack("batch-deep", Fate.DESTROYED, full=2_000_000, small=5000)
async def deep(target: Target, size: int) -> Outcome:
    """Batches in batches, as deep as they go."""
    connection = await target.connect()
    await connection.send(_nested(size))
    return await settled(connection, 2)


@attack("batch-of-itself", Fate.DESTROYED)
async def of_itself(target: Target, _size: int) -> Outcome:
    """A batch whose message is as long as the frame, so that it would hold itself."""
    connection = await target.connect()
    await connection.send(b"\x00\x00\x00\x06\x00\x00\x06\x00\x00\x06")
    return await settled(connection, 1)


@attack("batch-too-long", Fate.DESTROYED, why_not_node="the originals cut such a message")
async def too_long(target: Target, _size: int) -> Outcome:
    """A batch whose last message says it is longer than the frame."""
    connection = await target.connect()
    await connection.send(b"\x00\x00\x01" + wire.uint(2**53 - 1) + b"\x00")
    return await settled(connection, 1)


@attack("frames-16MiB", Fate.IGNORED, Fate.DESTROYED, Fate.PAUSED, full=30, small=2)
async def large_frames(target: Target, size: int) -> Outcome:
    """Frames of 16 MiB for an open channel, which takes them."""
    connection = await _sink(target)
    frame = wire.frame(1, b"\x00" + os.urandom(1024) * 16_383)
    for _ in range(size):
        await connection.send(frame)
    return await settled(connection, 2)


@attack("frames-16MiB-held", Fate.REJECTED, Fate.DESTROYED, Fate.PAUSED, full=30, small=3)
async def large_frames_held(target: Target, size: int) -> Outcome:
    """Frames of 16 MiB for a channel that is not paired yet: they are held."""
    connection = await target.connect()
    await connection.send(wire.frame(0, wire.opening(1, "async-pair", b"never")))
    frame = wire.frame(1, b"\x00" + bytes(wire.MAX_FRAME - 2))
    for _ in range(size):
        await connection.send(frame)
    return await settled(connection, 2)


@attack("held-small", Fate.REJECTED, Fate.DESTROYED, Fate.PAUSED, full=1_000_000, small=5000)
async def small_held(target: Target, size: int) -> Outcome:
    """Empty messages for a channel that is not paired yet, a frame each."""
    connection = await target.connect()
    await connection.send(wire.frame(0, wire.opening(1, "async-pair", b"never")))
    for _ in range(0, size, 100):
        await connection.send(*[wire.frame(1, b"\x00")] * 100)
    return await settled(connection, 2)


@attack("held-over-many-streams", Fate.REJECTED, Fate.DESTROYED, Fate.PAUSED, full=50, small=3)
async def held_on_many(target: Target, size: int) -> Outcome:
    """1 MiB for a channel that is not paired yet, on each of many streams."""
    frame = wire.frame(1, b"\x00" + bytes(2**20))
    connections = []
    for _ in range(size):
        connection = await target.connect()
        connections.append(connection)
        await connection.send(wire.frame(0, wire.opening(1, "async-pair", b"never")), frame)
    return await settled(connections[-1], 2)
