"""Games with channel numbers: such as nobody may use, such as are in use, such as were freed."""

from __future__ import annotations

from tests.attacks import wire
from tests.attacks.attack import Fate, Outcome, Target, attack, settled

__all__ = ["beyond", "in_use", "reused", "zero"]


_LENIENT = "the originals answer an open at once"


async def _told(target: Target, *bodies: bytes, number: int = 1) -> Outcome:
    """Send control messages on a new connection, one frame each."""
    connection = await target.connect()
    await connection.send(*(wire.frame(0, body) for body in bodies))
    return await settled(connection, number)


@attack("number-0", Fate.DESTROYED)
async def zero(target: Target, _size: int) -> Outcome:
    """An open of the control channel."""
    return await _told(target, wire.opening(0, "sink"))


@attack("number-beyond", Fate.DESTROYED)
async def beyond(target: Target, _size: int) -> Outcome:
    """An open two past the highest."""
    return await _told(target, wire.opening(2, "sink"))


@attack("number-2^53-1", Fate.DESTROYED)
async def far_beyond(target: Target, _size: int) -> Outcome:
    """An open with the highest number that can be said."""
    return await _told(target, wire.opening(2**53 - 1, "sink"))


@attack("number-2^64-1", Fate.DESTROYED)
async def unsayable(target: Target, _size: int) -> Outcome:
    """An open with a number that no peer may send."""
    return await _told(target, wire.opening(2**64 - 1, "sink"))


@attack("number-in-use", Fate.DESTROYED)
async def in_use(target: Target, _size: int) -> Outcome:
    """Two opens with one number, of a channel that is paired."""
    return await _told(target, wire.opening(1, "sink"), wire.opening(1, "sink", b"2"), number=2)


@attack("number-in-use-waiting", Fate.DESTROYED)
async def in_use_waiting(target: Target, _size: int) -> Outcome:
    """Two opens with one number, of one that waits to be paired."""
    first = wire.opening(1, "async-pair", b"never")
    return await _told(target, first, wire.opening(1, "sink"), number=2)


@attack("number-closed-while-waiting", Fate.DESTROYED)
async def closed_while_waiting(target: Target, _size: int) -> Outcome:
    """A number used again after its close, which is not answered yet."""
    first = wire.opening(1, "async-pair", b"never")
    return await _told(target, first, wire.close(1), wire.opening(1, "sink"), number=2)


@attack(
    "number-reused",
    Fate.IGNORED,
    Fate.DESTROYED,
    Fate.PAUSED,
    Fate.CLOSED,  # it may take so long that the victim gives up its own channel, as not answered
    full=100_000,
    small=5000,
)
async def reused(target: Target, size: int) -> Outcome:
    """Channels opened and closed again and again under the same numbers, as one may."""
    connection = await target.connect()
    numbers = range(1, 1001)
    opens = wire.batch(0, [wire.opening(number, "sink", b"%d" % number) for number in numbers])
    closes = wire.batch(0, map(wire.close, numbers))
    await connection.until(lambda: connection.opened > 0)  # the victim's own
    for _ in range(0, size, len(numbers)):
        connection.opened = 0
        await connection.send(opens)
        await connection.until(lambda: connection.opened >= len(numbers))
        await connection.send(closes)
    return await settled(connection, 1)


@attack("number-reused-too-early", Fate.DESTROYED, full=1000, small=10, why_not_node=_LENIENT)
async def reused_too_early(target: Target, size: int) -> Outcome:
    """A number used again after a close of ours, before its open was answered."""
    return await _told(target, *(wire.opening(1, "sink"), wire.close(1)) * size)


@attack("close-unknown", Fate.IGNORED, Fate.DESTROYED, full=500_000, small=5000)
async def close_unknown(target: Target, size: int) -> Outcome:
    """Closes of channels that never were."""
    connection = await target.connect()
    for first in range(7, size, 1000):
        await connection.send(wire.batch(0, map(wire.close, range(first, first + 1000))))
    return await settled(connection, 1)


@attack("reject-unknown", Fate.DESTROYED)
async def reject_unknown(target: Target, _size: int) -> Outcome:
    """A reject of an open that never was."""
    return await _told(target, wire.reject(77))


@attack("reject-twice", Fate.DESTROYED)
async def reject_twice(target: Target, _size: int) -> Outcome:
    """Two rejects of the victim's own open."""
    connection = await target.connect()
    await connection.until(lambda: connection.opened > 0)
    number, _ = wire.read_uint(connection.opens[0], 1)
    await connection.send(wire.frame(0, wire.reject(number)), wire.frame(0, wire.reject(number)))
    return await settled(connection, 1)


@attack("reject-paired", Fate.DESTROYED)
async def reject_paired(target: Target, _size: int) -> Outcome:
    """A reject of what is paired already."""
    connection = await target.connect()
    await target.join(connection)
    await connection.until(lambda: connection.opened > 0)
    number, _ = wire.read_uint(connection.opens[0], 1)
    await connection.send(wire.frame(0, wire.reject(number)))
    return await settled(connection, 2)


@attack("message-unknown", Fate.IGNORED, Fate.DESTROYED, full=100_000, small=2000)
async def message_unknown(target: Target, size: int) -> Outcome:
    """Messages for channels that never were, a frame each."""
    connection = await target.connect()
    for first in range(1, size, 100):
        numbers = range(first, first + 100)
        await connection.send(*(wire.frame(number, wire.lookup()) for number in numbers))
    return await settled(connection, 1)


@attack("control-unknown", Fate.IGNORED, Fate.DESTROYED)
async def control_unknown(target: Target, _size: int) -> Outcome:
    """Control messages of types that there are not."""
    return await _told(target, *(wire.message(type) for type in (4, 0xFD, 2**32)))
