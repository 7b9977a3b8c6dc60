"""What is sent during a tick leaves at its end, whatever else happens there."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref

import pytest

from protomux import Limits, Protomux
from protomux.encoding import raw
from protomux.outbox import TickEnd
from protomux.streams import MemoryStream, memory_pair
from tests.ticking import ticks


class Interrupted(KeyboardInterrupt):
    """One that pytest does not take for its own."""


def sender(log: list[int], number: int, error: BaseException | None = None) -> MemoryStream:
    """A stream whose mux has sent something in this tick, and that logs when it is written."""
    stream, _ = memory_pair()
    write = stream.write

    def logged(frame: bytes) -> bool:
        log.append(number)
        if error is not None:
            raise error
        return write(frame)

    stream.write = logged  # type: ignore[method-assign]
    channel = Protomux(stream).create_channel("test", messages=[raw])
    assert channel is not None
    channel.open()
    channel.messages[0].send(b"value")
    return stream


async def test_streams_are_written_in_the_order_in_which_they_had_something_first() -> None:
    log: list[int] = []
    kept = [sender(log, number) for number in range(5)]
    await ticks(2)
    assert log == [0, 1, 2, 3, 4]
    assert len(kept) == 5


async def test_a_stream_that_cannot_be_written_costs_no_other_its_turn() -> None:
    log: list[int] = []
    broken = sender(log, 1, ValueError("broken"))
    kept = [sender(log, 0), broken, sender(log, 2)]
    await ticks(3)
    assert sorted(log) == [0, 1, 2]
    assert isinstance(broken.error, ValueError)
    assert [stream.error for stream in kept if stream is not broken] == [None, None]


def test_who_is_interrupted_costs_no_other_its_turn() -> None:
    log: list[int] = []
    kept: list[MemoryStream] = []

    async def send() -> None:
        kept.extend(
            sender(log, number, Interrupted() if number == 1 else None) for number in range(4)
        )
        await ticks(2)

    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(send())
        with pytest.raises(Interrupted):
            loop.run_until_complete(task)
        assert log == [0, 1, 2, 3]
        loop.run_until_complete(task)
    finally:
        loop.close()


def test_a_loop_is_not_kept() -> None:
    async def use() -> TickEnd:
        loop = asyncio.get_running_loop()
        assert TickEnd.of(loop) is TickEnd.of(loop)
        kept = sender([], 0)  # and has not been written when the loop is closed
        assert kept.error is None
        return TickEnd.of(loop)

    end = weakref.ref(asyncio.run(use()))
    gc.collect()
    assert end() is None


def test_a_loop_that_is_closed_while_somebody_waits_is_not_kept() -> None:
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def play() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        a, b = memory_pair()
        one, two = (Protomux(stream).create_channel("test") for stream in (a, b))
        assert one is not None
        assert two is not None
        for channel in (one, two):
            channel.add_message(raw, lambda value, channel: channel.messages[0].send(value))
            channel.open()
        one.messages[0].send(b"ball")
        await ticks()

    asyncio.run(play())
    gc.collect()
    assert loops[0]() is None


async def test_hooks_run_in_the_context_of_who_sent_on_their_stream() -> None:
    seen: list[tuple[str, str]] = []
    sender_name = contextvars.ContextVar("sender_name", default="nobody")

    async def fill(name: str) -> None:
        sender_name.set(name)
        stream, other = memory_pair()
        Protomux(other)
        mux = Protomux(stream, limits=Limits(unsent_size=10))
        channel = mux.create_channel(
            "test", messages=[raw], on_drain=lambda _: seen.append((name, sender_name.get()))
        )
        assert channel is not None
        channel.open()
        while channel.messages[0].send(b"value"):
            pass
        await ticks(3)

    await asyncio.gather(fill("one"), fill("two"))
    assert seen == [("one", "one"), ("two", "two")]
