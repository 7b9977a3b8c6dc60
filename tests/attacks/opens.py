"""Floods of opens: of protocols that are paired in every way there is, and of unknown topics."""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.attacks import wire
from tests.attacks.attack import Fate, Outcome, Target, attack, settled, settled_deaf
from tests.attacks.connection import Connection

__all__ = [
    "accepted",
    "deaf",
    "late",
    "never",
    "never_and_leave",
    "rejected",
    "same_name",
    "topics",
]

_AT_ONCE = 1000  # opens in a frame


async def _flood(
    connection: Connection, count: int, opening: Callable[[int], bytes], at_once: int = _AT_ONCE
) -> None:
    for first in range(1, count + 1, at_once):
        numbers = range(first, min(first + at_once, count + 1))
        await connection.send(wire.batch(0, map(opening, numbers)))


async def _flooded(target: Target, count: int, opening: Callable[[int], bytes]) -> Outcome:
    connection = await target.connect()
    await _flood(connection, count, opening)
    return await settled(connection, count + 1)


def _async(kind: str) -> Callable[[int], bytes]:
    return lambda number: wire.opening(number, "async-pair", b"%s %d" % (kind.encode(), number))


@attack("open-flood-never", Fate.REJECTED, Fate.DESTROYED, Fate.PAUSED, full=10**6, small=3000)
async def never(target: Target, size: int) -> Outcome:
    """Opens whose async pair callback never ends."""
    return await _flooded(target, size, _async("never"))


@attack("open-few-never-and-leave", Fate.IGNORED, Fate.PAUSED, Fate.REJECTED, full=1000, small=50)
async def never_and_leave(target: Target, size: int) -> Outcome:
    """A few of them, within every bound, and then away: their callbacks must not stay."""
    return await _flooded(target, size, _async("never"))


@attack(
    "open-flood-late",
    Fate.IGNORED,
    Fate.REJECTED,
    Fate.DESTROYED,
    Fate.PAUSED,
    Fate.CLOSED,  # as for number-reused
    full=10**6,
    small=3000,
)
async def late(target: Target, size: int) -> Outcome:
    """Opens that an async pair callback pairs after a while."""
    return await _flooded(target, size, _async("late"))


@attack(
    "open-flood-async-reject", Fate.REJECTED, Fate.DESTROYED, Fate.PAUSED, full=10**6, small=3000
)
async def async_reject(target: Target, size: int) -> Outcome:
    """Opens that are rejected when their async pair callback has ended."""
    return await _flooded(target, size, _async("reject"))


@attack("open-flood-rejected", Fate.REJECTED, Fate.DESTROYED, Fate.PAUSED, full=10**6, small=3000)
async def rejected(target: Target, size: int) -> Outcome:
    """Opens that nobody pairs with."""
    return await _flooded(target, size, lambda number: wire.opening(number, "nobody"))


@attack("open-flood-accepted", Fate.REJECTED, Fate.DESTROYED, Fate.PAUSED, full=10**6, small=10_000)
async def accepted(target: Target, size: int) -> Outcome:
    """Opens that are all paired at once."""
    return await _flooded(target, size, lambda number: wire.opening(number, "sink", b"%d" % number))


@attack("open-flood-same-name", Fate.REJECTED, Fate.DESTROYED, Fate.PAUSED, full=10**6, small=3000)
async def same_name(target: Target, size: int) -> Outcome:
    """Opens of one and the same place, where none is paired."""
    return await _flooded(target, size, lambda number: wire.opening(number, "async-pair", b"never"))


@attack("topic-flood", Fate.REJECTED, Fate.DESTROYED, Fate.PAUSED, full=10**6, small=3000)
async def topics(target: Target, size: int) -> Outcome:
    """Opens of wakeup topics that the victim does not know."""
    hello = wire.handshake(bytes(32))
    return await _flooded(
        target, size, lambda number: wire.opening(number, "wakeup", os.urandom(32), hello)
    )


@attack("open-flood-large", Fate.REJECTED, Fate.DESTROYED, Fate.PAUSED, full=2000, small=30)
async def large(target: Target, size: int) -> Outcome:
    """Opens with a handshake of 1 MiB each, which wait to be paired."""
    ballast = bytes(2**20)
    connection = await target.connect()
    await _flood(
        connection,
        size,
        lambda number: wire.opening(number, "async-pair", b"never %d" % number, ballast),
        at_once=1,
    )
    return await settled(connection, size + 1)


@attack("open-long-name", Fate.REJECTED, Fate.DESTROYED)
async def long_name(target: Target, _size: int) -> Outcome:
    """A protocol name of almost 16 MiB."""
    connection = await target.connect()
    await connection.send(wire.frame(0, wire.opening(1, "x" * (wire.MAX_FRAME - 20))))
    return await settled(connection, 2)


@attack("open-flood-deaf", Fate.DESTROYED, Fate.PAUSED, Fate.IGNORED, full=10**6, small=20_000)
async def deaf(target: Target, size: int) -> Outcome:
    """Opens that are rejected, by a peer that reads none of the answers."""
    connection = await target.connect(deaf=True)
    await _flood(connection, size, lambda number: wire.opening(number, "nobody"))
    return await settled_deaf(connection)


@attack("open-accepted-deaf", Fate.DESTROYED, Fate.PAUSED, full=100_000, small=6000)
async def accepted_deaf(target: Target, size: int) -> Outcome:
    """Opens with long names that are paired: each answer, which nobody reads, has the name."""
    connection = await target.connect(deaf=True)
    await _flood(
        connection,
        size,
        lambda number: wire.opening(number, "sink", number.to_bytes(1000, "big")),
        at_once=100,
    )
    return await settled_deaf(connection)
