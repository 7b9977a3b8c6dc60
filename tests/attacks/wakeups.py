"""The wakeup protocol: floods by an insider, and outsiders who want to be taken for one."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from tests.attacks import wire
from tests.attacks.attack import MARK, Fate, Outcome, Target, attack, settled, settled_deaf
from tests.attacks.connection import Connection, Stalled

__all__ = ["copied_proof", "lookup_flood", "reflected_proof", "wrong_proof"]

_COUNT_MOST: Final = 0x100000


async def _insider(target: Target) -> Connection:
    connection = await target.connect()
    await target.join(connection)
    await connection.until(lambda: connection.opened > 0)
    return connection


# Announces


async def _counted(target: Target, count: int) -> Outcome:
    connection = await _insider(target)
    await connection.send(wire.frame(1, wire.announce([(os.urandom(32), 1)], count)))
    return await settled(connection, 2)


@attack("announce-count-2^20", Fate.DESTROYED)
async def count_most(target: Target, _size: int) -> Outcome:
    """An announce that says it has as many entries as it may, and has one."""
    return await _counted(target, _COUNT_MOST)


@attack("announce-count-2^20+1", Fate.DESTROYED)
async def count_more(target: Target, _size: int) -> Outcome:
    """One that says it has one more than it may."""
    return await _counted(target, _COUNT_MOST + 1)


@attack("announce-count-2^53-1", Fate.DESTROYED)
async def count_largest(target: Target, _size: int) -> Outcome:
    """One that says it has as many as can be said."""
    return await _counted(target, 2**53 - 1)


def _largest(size: int) -> bytes:
    """Return the frame of an announce with as many entries as fit `size` bytes."""
    count = (size - 16) // 33
    some = b"".join(os.urandom(32) + b"\x07" for _ in range(64))
    entries = some * (count // 64) + some[: 33 * (count % 64)]
    return b"\x01\x01" + wire.uint(count) + entries


@attack(
    "announce-largest",
    Fate.IGNORED,
    Fate.DESTROYED,
    Fate.PAUSED,
    full=wire.MAX_FRAME,
    small=200_000,
)
async def largest_announce(target: Target, size: int) -> Outcome:
    """The largest announce that a frame can carry."""
    connection = await _insider(target)
    await connection.send(_largest(size))
    return await settled(connection, 2)


@attack("announce-flood-large", Fate.IGNORED, Fate.DESTROYED, Fate.PAUSED, full=20, small=2)
async def large_announces(target: Target, size: int) -> Outcome:
    """Announces of 500,000 entries, one after the other."""
    connection = await _insider(target)
    frame = _largest(wire.MAX_FRAME)
    for _ in range(size):
        await connection.send(frame)
    return await settled(connection, 2)


@attack("announce-flood", Fate.IGNORED, Fate.DESTROYED, Fate.PAUSED, full=10**6, small=5000)
async def announce_flood(target: Target, size: int) -> Outcome:
    """Announces of one entry."""
    connection = await _insider(target)
    frame = wire.batch(1, [wire.announce([(os.urandom(32), 1)])] * 1000)
    for _ in range(0, size, 1000):
        await connection.send(frame)
    return await settled(connection, 2)


@attack("announce-large-on-many", Fate.IGNORED, Fate.DESTROYED, Fate.PAUSED, full=20, small=2)
async def large_announces_on_many(target: Target, size: int) -> Outcome:
    """The largest announce that a frame can carry, on many streams at once."""
    connections = [await _insider(target) for _ in range(size)]
    frame = _largest(wire.MAX_FRAME)
    await asyncio.gather(*(connection.send(frame) for connection in connections))
    return await settled(connections[-1], 2)


# Lookups and infos


@attack("lookup-flood", Fate.SERVED, Fate.DESTROYED, Fate.PAUSED, full=200_000, small=2000)
async def lookup_flood(target: Target, size: int) -> Outcome:
    """Lookups, whose answers are read."""
    connection = await _insider(target)
    frame = wire.batch(1, [wire.lookup()] * 100)
    for _ in range(0, size, 100):
        await connection.send(frame)
    return await settled(connection, 2)


@attack("lookup-flood-deaf", Fate.IGNORED, Fate.DESTROYED, Fate.PAUSED, full=200_000, small=10_000)
async def deaf_lookups(target: Target, size: int) -> Outcome:
    """Lookups by a peer that reads none of the answers."""
    connection = await target.connect(deaf=True)
    await target.join(connection)
    frame = wire.batch(1, [wire.lookup()] * 100)
    for _ in range(0, size, 100):
        await connection.send(frame)
    return await settled_deaf(connection)


@attack("lookup-flood-on-many", Fate.SERVED, Fate.DESTROYED, Fate.PAUSED, full=30, small=3)
async def lookups_on_many(target: Target, size: int) -> Outcome:
    """1,000 lookups on each of many streams at once."""
    connections = [await _insider(target) for _ in range(size)]
    frame = wire.batch(1, [wire.lookup()] * 1000)
    await asyncio.gather(*(connection.send(frame) for connection in connections))
    return await settled(connections[-1], 2)


@attack("info-flood", Fate.IGNORED, Fate.DESTROYED, Fate.PAUSED, full=10**6, small=5000)
async def info_flood(target: Target, size: int) -> Outcome:
    """Infos that flip: inactive, active, and so on."""
    connection = await _insider(target)
    frame = wire.batch(1, [wire.info(False), wire.info(True)] * 500)
    for _ in range(0, size, 1000):
        await connection.send(frame)
    return await settled(connection, 2)


# Proofs


@attack("no-answer", Fate.CLOSED, Fate.DESTROYED)
async def no_answer(target: Target, _size: int) -> Outcome:
    """The victim's own open is never answered: it must not wait for the proof for ever."""
    connection = await target.connect()
    try:
        await connection.until(lambda: connection.closed > 0, 5.5)
    except Stalled:
        return Outcome(Fate.IGNORED)
    return Outcome(Fate.CLOSED)


def _marked(target: Target) -> list[bytes]:
    """Messages that no hook of the victim may see."""
    hash = MARK + os.urandom(24)
    target.forbidden[hash] = 0
    return [wire.lookup(hash), wire.announce([(hash, 1)]), wire.info(True)]


def _liar(number: int, capability: bytes, proof: bytes) -> bytes:
    return wire.opening(number, "wakeup", wire.discovery_key(capability), wire.handshake(proof))


@attack("wrong-proof", Fate.CLOSED, Fate.DESTROYED)
async def wrong_proof(target: Target, _size: int) -> Outcome:
    """Messages before, right behind and after an open with a wrong proof; there is a session."""
    connection = await target.connect()
    marked = _marked(target)
    await connection.send(wire.batch(1, marked))
    await connection.send(wire.frame(0, _liar(1, target.secrets.capability, bytes(32))))
    await connection.send(*(wire.frame(1, body) for body in marked))
    return await settled(connection, 2)


@attack("wrong-proof-one-batch", Fate.CLOSED, Fate.DESTROYED)
async def wrong_proof_in_batch(target: Target, _size: int) -> Outcome:
    """The open with the wrong proof and what follows in one frame."""
    connection = await target.connect()
    liar = _liar(1, target.secrets.capability, bytes(32))
    parts = [b"\x00\x00\x00", wire.uint(len(liar)), liar, b"\x00\x01"]
    for body in _marked(target):
        parts += [wire.uint(len(body)), body]
    await connection.send(b"".join(parts))
    return await settled(connection, 2)


async def _late(target: Target, *, awaited: bool, close: bool = False) -> Outcome:
    capability = target.late(awaited=awaited)
    connection = await target.connect()
    await connection.send(
        wire.frame(0, _liar(1, capability, bytes(32))), wire.batch(1, _marked(target))
    )
    if close:
        await connection.send(wire.frame(0, wire.close(1)))
    id = wire.discovery_key(capability)
    await connection.until(lambda: any(id in body for body in connection.opens))
    await connection.send(wire.batch(1, _marked(target)))
    return await settled(connection, 2)


@attack("wrong-proof-before-session", Fate.CLOSED, Fate.DESTROYED)
async def wrong_proof_at_once(target: Target, _size: int) -> Outcome:
    """Messages behind a wrong proof for a topic whose session on_wakeup makes."""
    return await _late(target, awaited=False)


@attack("wrong-proof-before-late-session", Fate.CLOSED, Fate.DESTROYED)
async def wrong_proof_late(target: Target, _size: int) -> Outcome:
    """The same, where on_wakeup awaits something first: the messages are held."""
    return await _late(target, awaited=True)


@attack("wrong-proof-and-close", Fate.CLOSED, Fate.DESTROYED)
async def wrong_proof_closed(target: Target, _size: int) -> Outcome:
    """The same, with a close right behind them."""
    return await _late(target, awaited=True, close=True)


@attack("no-proof", Fate.DESTROYED)
async def no_proof(target: Target, _size: int) -> Outcome:
    """An open whose handshake is empty."""
    connection = await target.connect()
    id = wire.discovery_key(target.secrets.capability)
    await connection.send(
        wire.frame(0, wire.opening(1, "wakeup", id)), wire.batch(1, _marked(target))
    )
    return await settled(connection, 2)


@attack("short-proof", Fate.DESTROYED)
async def short_proof(target: Target, _size: int) -> Outcome:
    """An open whose handshake ends inside the proof, for a session that comes later."""
    capability = target.late(awaited=True)
    connection = await target.connect()
    id = wire.discovery_key(capability)
    await connection.send(
        wire.frame(0, wire.opening(1, "wakeup", id, bytes(20))), wire.batch(1, _marked(target))
    )
    await connection.until(lambda: any(id in body for body in connection.opens))
    if await connection.wait_lost(connection.patience):
        return Outcome(Fate.DESTROYED)
    return Outcome(Fate.IGNORED)


@attack(
    "wrong-proof-flood",
    Fate.CLOSED,
    Fate.REJECTED,
    Fate.DESTROYED,
    Fate.PAUSED,
    full=50_000,
    small=500,
)
async def wrong_proofs(target: Target, size: int) -> Outcome:
    """One wrong proof after the other: the victim opens its topic again for each."""
    connection = await target.connect()
    capability = target.secrets.capability
    for first in range(1, size + 1, 100):
        await connection.send(
            wire.batch(
                0,
                (
                    _liar(number, capability, os.urandom(32))
                    for number in range(first, min(first + 100, size + 1))
                ),
            )
        )
    return await settled(connection, size + 1)


@attack("reflected-proof", Fate.CLOSED, Fate.DESTROYED)
async def reflected_proof(target: Target, _size: int) -> Outcome:
    """The victim's own proof, sent back to it."""
    connection = await target.connect()
    await connection.until(lambda: connection.opened > 0)
    proof = connection.opens[0][-33:-1]
    assert proof == wire.proof(target.secrets.capability, False, connection.handshake_hash)
    await connection.send(
        wire.frame(0, _liar(1, target.secrets.capability, proof)), wire.batch(1, _marked(target))
    )
    return await settled(connection, 2)


@attack("copied-proof", Fate.CLOSED, Fate.DESTROYED)
async def copied_proof(target: Target, _size: int) -> Outcome:
    """A man in the middle shows an honest peer's proof to the victim, on a stream of its own."""
    capability = target.secrets.capability
    connection = await target.connect()
    async with target.impostor() as (port, came):
        honest = await target.dial(port=port)
        await asyncio.gather(honest.shake(), _copy(target, honest, came, connection, capability))
    return await settled(connection, 2)


async def _copy(
    target: Target,
    honest: Connection,
    came: asyncio.Queue[Connection],
    connection: Connection,
    capability: bytes,
) -> None:
    middle = await came.get()
    await target.join(honest)
    await middle.until(lambda: middle.opened > 0)
    await connection.send(
        wire.frame(0, middle.opens[0]),  # as it came
        wire.batch(1, _marked(target)),
    )
    assert capability not in middle.opens[0]
