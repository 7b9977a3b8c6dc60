"""Below the frames: handshakes that never end, are replayed, too large, or use weak keys."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Final

from protomux.crypto import KeyPair
from protomux.streams.noise import Handshake
from tests.attacks import wire
from tests.attacks.attack import MARK, Fate, Outcome, Target, attack
from tests.attacks.connection import Connection, Lost

__all__ = ["NON_CANONICAL", "SMALL_ORDER", "churn", "replayed_ik", "replayed_xx", "silent"]

_P: Final = 2**255 - 19
_SIGN: Final = 2**255


def _point(value: int) -> bytes:
    return value.to_bytes(32, "little")


_Y8: Final = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
SMALL_ORDER: Final = tuple(
    map(_point, (1, _P - 1, 0, _SIGN, _Y8, _Y8 | _SIGN, _P - _Y8, (_P - _Y8) | _SIGN))
)
"""The eight points of small order: their orders are 1, 2, 4, 4 and four times 8."""

NON_CANONICAL: Final = (
    *(_point(y | sign) for y in range(_P, 2**255) for sign in (0, _SIGN)),
    _point(1 | _SIGN),
    _point((_P - 1) | _SIGN),
)
"""All encodings of a y that is p or more, and those of x = 0 with a sign."""


async def _all_destroyed(target: Target, connections: Iterable[Connection]) -> Outcome:
    """Wait until the victim has ended each connection."""
    count = 0
    for connection in connections:
        if not await connection.wait_lost(target.handshake_time + target.patience):
            return Outcome(Fate.IGNORED, f"connection {count + 1} is still there")
        count += 1
    return Outcome(Fate.DESTROYED, f"{count:,} connections")


@attack("handshake-silent", Fate.DESTROYED, full=1500, small=50)
async def silent(target: Target, size: int) -> Outcome:
    """Many connections that send nothing."""
    return await _all_destroyed(target, [await target.dial() for _ in range(size)])


@attack("handshake-drip", Fate.DESTROYED, full=200, small=20)
async def drip(target: Target, size: int) -> Outcome:
    """Many connections, each with a byte a second of a handshake that would be right."""
    lasted = await asyncio.gather(*[_drip(target) for _ in range(size)])
    if None in lasted:
        return Outcome(Fate.IGNORED, f"{lasted.count(None):,} of {size:,}")
    return Outcome(Fate.DESTROYED, f"{size:,} connections")


async def _drip(target: Target) -> int | None:
    """Return after how many bytes the victim had enough, None if it never had."""
    message = Handshake("XX", True, KeyPair.generate()).write()
    data = len(message).to_bytes(3, "little") + message
    connection = await target.dial()
    for count, byte in enumerate(data):
        try:
            await connection.send_raw(bytes([byte]))
        except Lost:
            return count
        if await connection.wait_lost(1.0):
            return count + 1
    return None


@attack("handshake-length", Fate.DESTROYED)
async def oversize(target: Target, _size: int) -> Outcome:
    """First messages that say they are larger than a Noise message can be, or have no bytes."""
    connections = []
    for length in (0, 1, 31, 65536, 2**24 - 1):
        connection = await target.dial()
        connections.append(connection)
        await connection.send_raw(length.to_bytes(3, "little") + os.urandom(min(length, 40)))
    return await _all_destroyed(target, connections)


@attack("header-length", Fate.DESTROYED)
async def header_length(target: Target, _size: int) -> Outcome:
    """Headers of wrong lengths after a right handshake."""
    connections = []
    for length in (0, 55, 57, 2**24 - 1):
        connection = await target.dial()
        connections.append(connection)
        await _noise_only(connection)
        await connection.send_raw(length.to_bytes(3, "little") + os.urandom(min(length, 60)))
    return await _all_destroyed(target, connections)


async def _noise_only(connection: Connection, key_pair: KeyPair | None = None) -> None:
    noise = Handshake("XX", True, key_pair or KeyPair.generate())
    await connection.send_message(noise.write())
    noise.read(await connection.read_message())
    await connection.send_message(noise.write())


@attack("noise-empty", Fate.DESTROYED)
async def empty_noise(target: Target, _size: int) -> Outcome:
    """An empty message in the place of each of the client's two."""
    first = await target.dial()
    await first.send_message(b"")
    second = await target.dial()
    await second.send_message(Handshake("XX", True, KeyPair.generate()).write())
    await second.read_message()
    await second.send_message(b"")
    return await _all_destroyed(target, [first, second])


@attack("noise-garbage", Fate.DESTROYED, full=1000, small=30)
async def garbage(target: Target, size: int) -> Outcome:
    """Random bytes in the place of the client's messages."""
    for number in range(size):
        connection = await target.dial()
        if number % 2:
            await connection.send_message(Handshake("XX", True, KeyPair.generate()).write())
            await connection.read_message()
        garbage = os.urandom(64)  # one in two begins with a point, and is a right first message
        await connection.send_raw((b"\x40\x00\x00" + garbage) * 2)
        if not await connection.wait_lost(target.handshake_time + target.patience):
            return Outcome(Fate.IGNORED, f"connection {number + 1} is still there")
    return Outcome(Fate.DESTROYED, f"{size:,} connections")


async def _with_ephemeral(target: Target, points: Iterable[bytes], port: int = 0) -> Outcome:
    connections = []
    for point in points:
        connection = await target.dial(port=port)
        connections.append(connection)
        await connection.send_message(point if port == 0 else point + bytes(64))
    return await _all_destroyed(target, connections)


@attack("small-order-ephemeral", Fate.DESTROYED)
async def small_order(target: Target, _size: int) -> Outcome:
    """Ephemeral keys of small order, with XX and with IK."""
    outcome = await _with_ephemeral(target, SMALL_ORDER, target.ik_port)
    if outcome.fate is not Fate.DESTROYED:
        return outcome
    return await _with_ephemeral(target, SMALL_ORDER)


@attack("non-canonical-ephemeral", Fate.DESTROYED)
async def non_canonical(target: Target, _size: int) -> Outcome:
    """Ephemeral keys that are no canonical encoding of a point."""
    return await _with_ephemeral(target, NON_CANONICAL)


@attack("weak-static-key", Fate.DESTROYED)
async def weak_static(target: Target, _size: int) -> Outcome:
    """Static keys of small order, or not canonical, in a handshake that is right otherwise."""
    connections = []
    for point in SMALL_ORDER + NON_CANONICAL:
        connection = await target.dial()
        connections.append(connection)
        await _noise_only(connection, KeyPair(point, KeyPair.generate().secret_key))
    return await _all_destroyed(target, connections)


async def _recorded(target: Target, pattern: str) -> tuple[bytes, bytes]:
    """Return the raw bytes of a genuine client, and the hash of the lookup in it."""
    genuine = await target.dial(port=target.ik_port if pattern == "IK" else 0)
    genuine.is_recording = True
    await genuine.shake(
        pattern=pattern, remote_public_key=target.public_key if pattern == "IK" else None
    )
    genuine.listen()
    hash = MARK + os.urandom(24)
    await target.join(genuine)
    await genuine.send(wire.frame(1, wire.lookup(hash)))
    await genuine.until(lambda: genuine.messages > 0)
    target.forbidden[hash] = 1  # the genuine one
    genuine.leave()
    return bytes(genuine.sent), hash


async def _replayed(target: Target, pattern: str, size: int) -> Outcome:
    recorded, _ = await _recorded(target, pattern)
    connections = []
    for _ in range(size):
        connection = await target.dial(port=target.ik_port if pattern == "IK" else 0)
        connections.append(connection)
        await connection.send_raw(recorded)
    return await _all_destroyed(target, connections)


@attack("replayed-xx", Fate.DESTROYED, full=500, small=5)
async def replayed_xx(target: Target, size: int) -> Outcome:
    """The bytes of a genuine client of XX, sent again."""
    return await _replayed(target, "XX", size)


@attack("replayed-ik", Fate.DESTROYED, full=500, small=5)
async def replayed_ik(target: Target, size: int) -> Outcome:
    """The bytes of a genuine client of IK, whose first message alone the victim must believe."""
    return await _replayed(target, "IK", size)


@attack("replayed-ik-and-stay", Fate.DESTROYED, full=200, small=10)
async def replayed_and_stay(target: Target, size: int) -> Outcome:
    """Only the first message of a genuine client of IK: its header never comes."""
    recorded, _ = await _recorded(target, "IK")
    first = recorded[: 3 + int.from_bytes(recorded[:3], "little")]
    connections = []
    for _ in range(size):
        connection = await target.dial(port=target.ik_port)
        connections.append(connection)
        await connection.send_raw(first)
    return await _all_destroyed(target, connections)


@attack("churn", Fate.SERVED, full=2000, small=50)
async def churn(target: Target, size: int) -> Outcome:
    """Connect, do the handshake, be gone, again and again."""
    for number in range(size):
        connection = await target.dial()
        await connection.shake()
        if number % 2:
            await target.join(connection)
        target.leave()
    return Outcome(Fate.SERVED, f"{size:,} handshakes")


@attack("streams", Fate.SERVED, Fate.DESTROYED, full=1000, small=60)
async def streams(target: Target, size: int) -> Outcome:
    """Streams that open and do nothing more."""
    for first in range(0, size, 20):
        await asyncio.gather(*(target.connect() for _ in range(min(20, size - first))))
    return Outcome(Fate.SERVED, f"{size:,} streams")


@attack("churn-tcp", Fate.SERVED, full=3000, small=100)
async def churn_tcp(target: Target, size: int) -> Outcome:
    """Connect and be gone, before or after a first message."""
    for number in range(size):
        connection = await target.dial()
        if number % 2:
            await connection.send_message(os.urandom(32))
        target.leave()
    return Outcome(Fate.SERVED, f"{size:,} connections")
