"""Batches, back-pressure, hooks and failures against the original. Twins: cases/mux_flow.mjs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest

from protomux import Channel, Limits, Protomux, ProtomuxError, encoding
from protomux.streams import SecretStream

from .harness import SYMMETRIC, interop
from .twin import CLOSED_BY_REMOTE, Inbox, Mux, Peer, Watched, message, protocols, watch

MEBIBYTE = 2**20
BATCH = 8 * MEBIBYTE
"""Where both sides cut a batch."""


# Batches and back-pressure


@interop()
async def test_corks(peer: Peer) -> None:
    mux = Mux(await peer.stream())

    if peer.opener:
        foo = await peer.meet(mux, "foo")
        await foo.log.next()
        mux.cork()
        other = watch(mux, "other")
        multi = watch(mux, "multi", types=(encoding.int_, encoding.string))
        other.channel.open()
        multi.channel.open()
        await peer.sync("opened")  # a cork spans ticks
        multi.channel.cork()  # and counts
        for number in (1, 2, -3):
            multi.send(number)
        foo.send("between")
        multi.send("a string", 1)
        multi.channel.uncork()
        await peer.sync("still corked")
        mux.uncork()
        assert await other.log.take(2) == CLOSED_BY_REMOTE
        assert await multi.log.next() == ("open", None)
        return

    foo = await peer.meet(mux, "foo")
    await foo.log.next()
    created: Inbox[Watched] = Inbox()

    def offered(_: bytes | None) -> None:
        multi = watch(mux, "multi", types=(encoding.int_, encoding.string))
        multi.channel.open()
        created.push(multi)

    mux.pair("multi", callback=offered)
    mux.frames.items.clear()
    await peer.sync("opened")
    await peer.sync("still corked")
    multi = await created.next()
    assert await multi.log.take(5) == [
        ("open", None),
        *(message(number) for number in (1, 2, -3)),
        message("a string", 1),
    ]
    assert await foo.log.next() == message("between")
    frame = await mux.frames.next()
    assert frame.entries == [
        *("open 2 other", "open 3 multi"),
        *("3:0 02", "3:0 04", "3:0 05", "1:0 076265747765656e", "3:1 086120737472696e67"),
    ]
    assert mux.frames.items == []


@interop()
async def test_a_mega_cork_is_cut(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    foo = await peer.meet(mux, "foo", types=(encoding.buffer,))
    await foo.log.next()

    mebibyte = b"\7" * MEBIBYTE
    if peer.opener:
        with mux.corked():
            for _ in range(32):
                foo.send(mebibyte)
        await peer.sync("received")
        return
    mux.frames.items.clear()
    assert await foo.log.take(32) == [message(mebibyte)] * 32
    sizes = [frame.size for frame in await mux.frames.take(4)]
    assert all(BATCH < size < BATCH + 100 for size in sizes), sizes
    assert mux.frames.items == []
    await peer.sync("received")


@interop()
async def test_a_message_near_the_size_of_a_batch(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    foo = await peer.meet(mux, "foo", types=(encoding.raw,))
    await foo.log.next()

    # Both sides cut a batch where its frame has 8 MiB or more, before the next message.
    for size, frames in ((BATCH - 13, [3]), (BATCH - 12, [2, 1]), (BATCH, [2, 1])):
        texts = (b"a", b"\7" * size, b"z")
        if peer.opener:
            with mux.corked():
                for text in texts:
                    foo.send(text)
        else:
            mux.frames.items.clear()
            assert await foo.log.take(3) == [message(text) for text in texts]
            assert [len(frame.entries) for frame in mux.frames.items] == frames
        await peer.sync("received")


@interop()
async def test_messages_of_one_tick_leave_as_one_batch(peer: Peer) -> None:
    # What only the Python side does: batch unasked.
    mux = Mux(await peer.stream())
    foo = await peer.meet(mux, "foo", types=(encoding.uint,))
    bar = await peer.meet(mux, "bar", types=(encoding.uint,))
    await foo.log.next()
    await bar.log.next()
    await peer.fence(mux)

    await peer.sync("counting")
    for number in range(5):
        foo.send(number)
        bar.send(number)
    baz = watch(mux, "baz")
    baz.channel.open()
    bar.channel.close()
    assert await baz.log.take(2) == CLOSED_BY_REMOTE
    foo.send(99)


@interop()
async def test_without_batches_a_handler_may_await_an_answer(peer: Peer) -> None:
    # The original holds back all that it sends until every handler of a batch has ended, so one
    # that awaits an answer would wait for ever. `batch_size=0` is for peers that do so.
    mux = Mux(await peer.stream(), limits=Limits(batch_size=0))
    done: Inbox[str] = Inbox()

    def answer(question: str, channel: Channel) -> None:
        channel.messages[1].send(f"answer to {question}")

    messages = [
        (encoding.string, None),
        (encoding.string, answer),
        (encoding.string, lambda text, _: done.push(text)),
    ]
    foo = await peer.meet(mux, "foo", messages=messages)
    await foo.log.next()
    foo.send("one")
    foo.send("two")
    assert await done.take(2) == ["one: answer to one?", "two: answer to two?"]


@interop()
async def test_a_batch_is_answered_with_a_batch(peer: Peer) -> None:
    mux = Mux(await peer.stream())

    if peer.opener:
        foo = await peer.meet(mux, "foo", types=(encoding.uint,))
        await foo.log.next()
        mux.frames.items.clear()
        with mux.corked():
            for number in range(5):
                foo.send(number)
        assert await foo.log.take(5) == [message(number * 2) for number in range(5)]
        frame = await mux.frames.next()
        assert frame.entries == [f"1:0 0{number * 2}" for number in range(5)]
        assert mux.frames.items == []
    else:

        def double(number: int, channel: Channel) -> None:
            channel.messages[0].send(number * 2)

        await peer.meet(mux, "foo", messages=[(encoding.uint, double)])


@interop()
async def test_skipped_message_types(peer: Peer) -> None:
    mux = Mux(await peer.stream())

    if peer.opener:
        types = (encoding.int_, encoding.string, encoding.string, encoding.string)
        foo = await peer.meet(mux, "foo", types=types)
        foo.send(42)
        foo.send("skipped", 1)
        foo.send("a string with 42", 2)
        foo.send("unknown", 3)
        assert await foo.log.take(2) == [("open", None), message("back", 2)]
    else:
        foo = await peer.meet(mux, "foo", types=(encoding.int_, None, encoding.string))
        assert await foo.log.take(3) == [
            ("open", None),
            message(42),
            message("a string with 42", 2),
        ]
        foo.send("back", 2)
    await peer.fence(mux)


@interop()
async def test_drain(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    drained: Inbox[Channel] = Inbox()
    foo = await peer.meet(mux, "foo", on_drain=drained.push)
    await foo.log.next()

    if peer.opener:
        assert (mux.drained, foo.channel.drained) == (True, True)
        sent = 1
        while foo.send("hello world"):
            sent += 1
        assert (mux.drained, foo.channel.drained) == (False, False)
        assert await drained.next() is foo.channel
        assert (mux.drained, foo.channel.drained) == (True, True)
        await peer.sync("sent", sent)
    else:
        sent = await peer.hear("sent")
        assert await foo.log.take(sent) == [message("hello world")] * sent
        peer.tell("sent")


@interop()
async def test_reading_pauses_while_much_is_held(peer: Peer) -> None:
    stream = await peer.stream()
    mux = Mux(stream)
    chunk = 256 * 1024
    count = 128  # 32 MiB: far more than the kernel buffers, fewer than a turn takes

    if peer.opener:
        drained: Inbox[Channel] = Inbox()
        foo = watch(mux, "foo", types=(encoding.buffer,), on_drain=drained.push)
        foo.channel.open()
        for number in range(count):
            foo.send(bytes([number % 256]) * chunk)
        await peer.sync("paused")
        assert not mux.drained
        assert drained.items == []
        peer.tell("open now")
        assert await foo.log.next() == ("open", None)
        await drained.next()
        await peer.hear("received")
        return

    events: Inbox[str] = Inbox()
    gate = asyncio.Event()
    mux.pair("foo", callback=lambda _: gate.wait())

    def noted(event: str, call: Callable[[SecretStream], None]) -> Callable[[SecretStream], None]:
        def note(which: SecretStream) -> None:
            if which is stream:
                events.push(event)
            call(which)

        return note

    with (
        patch.object(SecretStream, "pause_reading", noted("pause", SecretStream.pause_reading)),
        patch.object(SecretStream, "resume_reading", noted("resume", SecretStream.resume_reading)),
    ):
        assert await events.next() == "pause"
        await peer.sync("paused")
        await peer.hear("open now")
        assert events.items == []
        held = sum(frame.size for frame in mux.frames.items)
        assert held < 2 * BATCH

        received = 0

        def on_message(data: bytes, _: Channel) -> None:
            nonlocal received
            assert (len(data), data[0]) == (chunk, received % 256)
            received += 1
            if received == count:
                events.push("all")

        foo = watch(mux, "foo", messages=[(encoding.buffer, on_message)])
        foo.channel.open()
        gate.set()
        assert await events.next() == "resume"
        while (event := await events.next()) != "all":
            assert event in ("pause", "resume")  # the loop has its turns in between
    peer.tell("received")


# What a mux tells of itself


@interop(ways=SYMMETRIC)
async def test_one_mux_a_stream(peer: Peer) -> None:
    stream = await peer.stream()
    mux = Protomux.of(stream)
    assert Protomux.of(stream) is mux
    assert Protomux.of(mux) is mux
    with pytest.raises(ValueError, match="receiver"):
        Protomux(stream)

    foo = watch(mux, "foo")
    bar = watch(Protomux.of(stream), "bar")
    for name, watched in (("foo", foo), ("bar", bar)):
        watched.channel.open()
        watched.send(f"hello {name}")
    assert await foo.log.take(2) == [("open", None), message("hello foo")]
    assert await bar.log.take(2) == [("open", None), message("hello bar")]


@interop()
async def test_is_idle(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    assert mux.is_idle()
    foo = await peer.meet(mux, "foo")
    assert not mux.is_idle()
    await foo.log.next()

    if peer.opener:
        assert await foo.log.take(3) == [message("hello world"), *CLOSED_BY_REMOTE]
    else:
        foo.send("hello world")
        foo.channel.close()
    assert mux.is_idle()


@interop()
async def test_iteration(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    assert protocols(mux) == []
    a, b, c = [await peer.meet(mux, name) for name in "abc"]
    for each in (a, b, c):
        await each.log.next()

    watch(mux, "never opened")
    assert list(mux) == [a.channel, b.channel, c.channel]
    await peer.sync("listed")
    if peer.opener:
        b.channel.close()
    else:
        assert await b.log.take(2) == CLOSED_BY_REMOTE
    assert list(mux) == [a.channel, c.channel]


# Failures

HOOKS = [(hook, when) for hook in ("open", "message", "pair") for when in ("sync", "async")]


@interop()
async def test_a_hook_that_fails_destroys_the_stream(peer: Peer) -> None:
    for hook, when in HOOKS:
        stream = await peer.stream()
        mux = Mux(stream)
        bystander = await peer.meet(mux, "bystander")
        await bystander.log.next()

        if peer.opener:
            await peer.hear("ready")
            foo = watch(mux, "foo")
            foo.channel.open()
            foo.send("hello")
            await stream.wait_closed()
            assert foo.log.items[-2:] == CLOSED_BY_REMOTE
            assert foo.channel.is_destroyed
        else:
            on_purpose = RuntimeError(f"{hook} {when} on purpose")
            fails = _failing(on_purpose, is_async=when == "async")
            hooks: dict[str, Any] = {
                "open": {"on_open": fails},
                "message": {"messages": [(encoding.string, fails)]},
                "pair": {},
            }

            def create(_: bytes | None, mux: Mux = mux, hooks: Any = hooks[hook]) -> None:
                watch(mux, "foo", **hooks).channel.open()

            mux.pair("foo", callback=fails if hook == "pair" else create)
            peer.tell("ready")
            await stream.wait_closed()
            assert stream.error is on_purpose
        assert bystander.log.items == CLOSED_BY_REMOTE
        assert mux.create_channel("late") is None


def _failing(error: Exception, *, is_async: bool) -> Callable[..., object]:
    def fails(*_: object) -> None:
        raise error

    async def fails_later(*_: object) -> None:
        await asyncio.sleep(0)
        raise error

    return fails_later if is_async else fails


@interop()
async def test_a_hook_that_fails_after_the_close_does_not(peer: Peer) -> None:
    mux = Mux(await peer.stream())

    if peer.opener:
        foo = await peer.meet(mux, "foo")
        foo.send("hello")
        await peer.hear("hook runs")
        foo.channel.close()
        peer.tell("closed")
    else:
        closed, destroyed = asyncio.Event(), asyncio.Event()

        async def on_message(_: str, __: Channel) -> None:
            peer.tell("hook runs")
            await closed.wait()
            raise RuntimeError("on message")

        async def on_close(_: bool, __: Channel) -> None:
            closed.set()
            await peer.hear("closed")
            raise RuntimeError("on close")

        foo = await peer.meet(
            mux,
            "foo",
            messages=[(encoding.string, on_message)],
            on_close=on_close,
            on_destroy=lambda _: destroyed.set(),
        )
        await destroyed.wait()  # when the last hook has ended
        logged = sorted(line.rpartition(": ")[2] for line in peer.logged)
        assert logged == ["RuntimeError('on close')", "RuntimeError('on message')"]
        peer.logged.clear()
    await peer.fence(mux)  # the stream lives


@interop()
async def test_frames_that_are_ignored(peer: Peer) -> None:
    stream = await peer.stream()
    mux = Mux(stream)
    foo = await peer.meet(mux, "foo")
    await foo.log.next()

    if peer.opener:
        for frame in (
            b"",
            b"\0\x09\1",  # a control type that nobody knows
            b"\0\3\0",  # close of the control channel
            b"\0\3\7",  # close of a channel that never was
            b"\7\0\1A",  # a message for a channel that never was
            b"\0\0\1",  # a batch of nothing
            b"\0\0\7\3\0\1A\0\1\3\0\1B",  # a batch: for nobody, then "B" for channel 1
        ):
            stream.write(frame)
    else:
        assert await foo.log.next() == message("B")
    await peer.fence(mux)
    assert foo.log.items == []


VIOLATIONS = {
    "stray reject": b"\0\2\x09",
    "open of the control channel": b"\0\1\0\3bar\0",
    "open past the next number": b"\0\1\x09\3bar\0",
    "open of a number in use": b"\0\1\1\3bar\0",
    "open cut short": b"\0\1\2\3b",
    "message cut short": b"\1\0\x09A",
    "frame cut short": b"\xfd\1",
    "uint beyond 2^53-1": b"\1\1\xff\0\0\0\0\0\0\x20\0",
}


@interop()
async def test_a_violation_destroys_the_stream(peer: Peer) -> None:
    for kind, frame in VIOLATIONS.items():
        stream = await peer.stream()
        mux = Mux(stream)
        foo = await peer.meet(mux, "foo", types=(encoding.string, encoding.uint))
        await foo.log.next()

        if peer.opener:
            stream.write(frame)
        await stream.wait_closed()
        if not peer.opener:
            assert isinstance(stream.error, ProtomuxError), kind
        assert foo.log.items == CLOSED_BY_REMOTE, kind


@interop(how=["destroyed", "cut"])
async def test_a_stream_is_lost_in_the_middle(peer: Peer) -> None:
    stream = await peer.stream()
    mux = Mux(stream)
    foo = await peer.meet(mux, "foo")
    await foo.log.next()
    waiting: list[Watched] = []
    gone: list[Exception | None] = []
    mux.add_close_callback(gone.append)

    if peer.opener:
        waiting.append(watch(mux, "waiting"))
        waiting[0].channel.open()
        assert await peer.hear("offered") == "waiting"
        foo.send("last words")
        await peer.hear("got it")
        opened = asyncio.ensure_future(waiting[0].channel.wait_opened())
        on_purpose = RuntimeError("on purpose")
        if peer.options["how"] == "destroyed":
            mux.destroy(on_purpose)
        else:
            assert stream.transport is not None
            stream.transport.abort()
        await stream.wait_closed()
        assert await opened is False
        assert waiting[0].log.items == CLOSED_BY_REMOTE
        if peer.options["how"] == "destroyed":
            assert gone == [on_purpose]
    else:
        paired: Inbox[Channel | None] = Inbox()

        async def offered(_: bytes | None) -> None:
            peer.tell("offered", "waiting")
            try:
                await asyncio.Event().wait()  # it is cancelled when the stream is gone
            finally:
                paired.push(mux.create_channel("waiting"))

        mux.pair("waiting", callback=offered)
        assert await foo.log.next() == message("last words")
        peer.tell("got it")
        await stream.wait_closed()
        assert await paired.next() is None
    await foo.channel.wait_closed()
    assert len(gone) == 1
    assert foo.log.items == CLOSED_BY_REMOTE
    assert foo.send("too late") is False
    assert mux.create_channel("late") is None
    assert protocols(mux) == []


@interop()
async def test_the_stream_closes_in_order(peer: Peer) -> None:
    stream = await peer.stream()
    mux = Mux(stream)
    foo = await peer.meet(mux, "foo", types=(encoding.buffer,))
    await foo.log.next()

    # What was sent before the end arrives.
    half = b"\1" * 2**19
    if peer.opener:
        for _ in range(16):
            foo.send(half)
        stream.close()
    else:
        assert await foo.log.take(16) == [message(half)] * 16
    await stream.wait_closed()
    assert stream.error is None
    assert foo.log.items == CLOSED_BY_REMOTE
