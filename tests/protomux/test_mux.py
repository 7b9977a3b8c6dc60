"""Protomux and its channels, two muxes or a mux and a raw peer over memory streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from protomux import (
    Channel,
    EncodingError,
    LimitExceeded,
    Limits,
    ProtocolError,
    Protomux,
    StreamClosed,
)
from protomux.encoding import buffer, int_, raw, string, uint
from protomux.streams import memory_pair
from protomux.streams.memory import MemoryStream
from tests.raw_peer import RawPeer
from tests.stepped import SteppedLoop, settle, wire
from tests.ticking import ticks, until

DEFAULT = Limits()


def mux_pair(limits: Limits = DEFAULT) -> tuple[Protomux, Protomux]:
    a, b = memory_pair()
    return Protomux(a, limits=limits), Protomux(b, limits=limits)


def mux_and_raw(limits: Limits = DEFAULT) -> tuple[Protomux, RawPeer]:
    a, b = memory_pair()
    return Protomux(a, limits=limits), RawPeer(b)


def stream_of(mux: Protomux) -> MemoryStream:
    assert isinstance(mux.stream, MemoryStream)
    return mux.stream


def written(mux: Protomux) -> list[bytes]:
    """Return the list that every frame goes into which `mux` writes from now on."""
    frames: list[bytes] = []
    stream = stream_of(mux)
    write = stream.write

    def note(frame: bytes) -> bool:
        frames.append(frame)
        return write(frame)

    stream.write = note  # type: ignore[method-assign]
    return frames


def create(mux: Protomux, protocol: str = "foo", *args: Any, **options: Any) -> Channel:
    channel = mux.create_channel(protocol, *args, **options)
    assert channel is not None
    return channel


class Log(list[Any]):
    """Collects what hooks are told."""

    def hooks(self, name: str = "") -> dict[str, Any]:
        def note(kind: str) -> Callable[..., None]:
            return lambda *args: self.append((name + kind, *args[:-1]))

        return {f"on_{kind}": note(kind) for kind in ("open", "close", "destroy", "drain")}

    def message(self, value: Any, _channel: Channel) -> None:
        self.append(value)


# Opening


async def test_messages_flow_once_both_sides_are_open() -> None:
    a, b = mux_pair()
    log = Log()
    one = create(a, messages=[(string, log.message)], **log.hooks("a "))
    one.open()
    two = create(b, **log.hooks("b "))
    two.open()
    assert two.add_message(string).send("hello world")
    assert not one.is_open
    assert await one.wait_opened()
    assert await two.wait_opened()
    await ticks()
    assert ("a open", None) in log
    assert ("b open", None) in log
    assert "hello world" in log
    assert one.is_open
    assert two.is_open


async def test_handshakes_are_exchanged_in_the_protocols_encoding() -> None:
    a, b = mux_pair()
    log = Log()
    create(a, handshake=string, **log.hooks("a ")).open("from a")
    two = create(b, handshake=string, **log.hooks("b "))
    two.open("from b")
    await ticks()
    assert log == [("b open", "from a"), ("a open", "from b")]
    assert two.handshake == "from a"


async def test_a_handshake_that_does_not_fit_raises_and_opens_nothing() -> None:
    a, peer = mux_and_raw()
    channel = create(a, handshake=uint)
    with pytest.raises(EncodingError, match="expected an int, got str 'x'"):
        channel.open("x")
    channel.open(7)
    assert await peer.wait_frames(1) == [b"\x00\x01\x01\x03foo\x00\x07"]


async def test_messages_before_the_local_open_are_held_and_delivered_in_order() -> None:
    a, peer = mux_and_raw()
    log = Log()
    release = asyncio.Event()

    async def pair(_id: bytes | None) -> None:
        await release.wait()
        create(a, messages=[(string, log.message)], **log.hooks()).open()
        log.append("created")

    a.pair("foo", callback=pair)
    peer.open(1, "foo")
    for text in ("one", "two", "three"):
        peer.message(1, 0, string.encode(text))
    await ticks()
    assert log == []
    release.set()
    await ticks()
    assert log == ["created", ("open", None), "one", "two", "three"]


async def test_on_open_waits_for_the_one_who_opens_to_finish_setting_up() -> None:
    a, b = mux_pair()
    seen = []

    def pair(id: bytes | None) -> None:
        channel = create(b, "foo", id, on_open=lambda _h, channel: seen.append(channel.user_data))
        channel.open()
        assert seen == []
        channel.user_data = "set after open"

    b.pair("foo", bytes(32), callback=pair)
    create(a, "foo", bytes(32)).open()
    await ticks()
    assert seen == ["set after open"]


async def test_opening_twice_and_opening_a_closed_channel_raise() -> None:
    a, _ = mux_pair()
    channel = create(a)
    channel.open()
    with pytest.raises(RuntimeError, match="not opened yet"):
        channel.open()
    channel.close()
    with pytest.raises(StreamClosed, match="closed"):
        channel.open()


async def test_sending_before_open_raises() -> None:
    a, _ = mux_pair()
    message = create(a).add_message(string)
    with pytest.raises(RuntimeError, match=r"expected open\(\) before a message"):
        message.send("too early")


# Pairing


async def test_pair_prefers_the_exact_id_to_the_whole_protocol() -> None:
    a, b = mux_pair()
    calls: list[tuple[str, bytes | None]] = []
    b.pair("foo", callback=lambda id: calls.append(("any", id)))
    b.pair("foo", b"exact", callback=lambda id: calls.append(("exact", id)))
    create(a, "foo", b"exact").open()
    create(a, "foo", b"other").open()
    create(a, "foo").open()
    create(a, "bar", b"exact").open()
    await ticks()
    assert calls == [("exact", b"exact"), ("any", b"other"), ("any", None)]
    b.unpair("foo", b"exact")
    b.unpair("foo", b"never paired")
    create(a, "foo", b"exact").open()
    await ticks()
    assert calls[3:] == [("any", b"exact")]


async def test_what_nobody_wants_is_rejected() -> None:
    a, b = mux_pair()
    log = Log()
    channels = [create(a, f"foo{number}", **log.hooks()) for number in range(10)]
    for channel in channels:
        channel.open()
    assert not a.is_idle()
    assert [await channel.wait_opened() for channel in channels] == [False] * 10
    assert log.count(("close", True)) == 10
    assert a.is_idle()
    assert b.is_idle()


async def test_rejection_waits_for_an_async_pair_callback() -> None:
    a, peer = mux_and_raw()
    release = asyncio.Event()

    async def pair(_id: bytes | None) -> None:
        await release.wait()

    a.pair("foo", callback=pair)
    peer.open(1, "foo")
    await ticks()
    assert peer.frames == []
    release.set()
    assert await peer.wait_frames(1) == [b"\x00\x02\x01"]


async def test_two_opens_of_one_name_are_rejected_when_the_last_callback_has_ended() -> None:
    a, peer = mux_and_raw()
    release = [asyncio.Event(), asyncio.Event()]
    order = iter(release)

    async def pair(_id: bytes | None) -> None:
        await next(order).wait()

    a.pair("foo", callback=pair)
    peer.open(1, "foo")
    peer.open(2, "foo")
    await ticks()
    release[0].set()
    await ticks()
    assert peer.frames == []
    release[1].set()
    await ticks()
    assert peer.bodies() == [(0, b"\x02\x01"), (0, b"\x02\x02")]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_pair_callback_that_raises_destroys_the_stream(is_async: bool) -> None:
    a, peer = mux_and_raw()
    error = OSError("no disk")

    def pair(_id: bytes | None) -> None:
        raise error

    async def pair_later(id: bytes | None) -> None:
        await asyncio.sleep(0)
        pair(id)

    a.pair("foo", callback=pair_later if is_async else pair)
    peer.open(1, "foo")
    await peer.wait_lost()
    await ticks()
    assert stream_of(a).error is error


async def test_a_cancelled_pair_callback_only_leaves_the_open_unwanted() -> None:
    a, peer = mux_and_raw()

    async def pair(_id: bytes | None) -> None:
        raise asyncio.CancelledError

    a.pair("foo", callback=pair)
    peer.open(1, "foo")
    assert await peer.wait_frames(1) == [b"\x00\x02\x01"]


async def test_a_pair_callback_ends_with_its_stream() -> None:
    a, peer = mux_and_raw()
    ended = asyncio.Event()

    async def pair(_id: bytes | None) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            assert a.create_channel("foo") is None
            ended.set()

    a.pair("foo", callback=pair)
    peer.open(1, "foo")
    await ticks()
    peer.stream.abort()
    await asyncio.wait_for(ended.wait(), 5)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_pair_callback_that_takes_too_long_is_cancelled_and_the_open_rejected() -> None:
    loop = SteppedLoop()  # type: ignore[abstract]
    a, b = wire(loop)
    mux = Protomux(a, limits=Limits(waiting_time=30), loop=loop)
    b.set_receiver(Protomux(b, loop=loop))
    asked: list[asyncio.Future[None]] = []

    async def pair(_id: bytes | None) -> None:
        asked.append(loop.create_future())
        await asked[-1]

    mux.pair("foo", callback=pair)

    def open(number: int) -> None:
        a.other.write(b"\x00\x01" + bytes([number]) + b"\x03foo\x00")
        settle(loop, a)

    open(1)
    loop.advance(20)
    open(2)
    settle(loop, a)
    assert not a.written
    loop.advance(10)
    settle(loop, a)
    assert asked[0].cancelled()
    assert not asked[1].cancelled()
    assert a.written == [b"\x00\x02\x01"]
    loop.advance(20)
    settle(loop, a)
    assert asked[1].cancelled()
    assert a.written == [b"\x00\x02\x01", b"\x00\x02\x02"]
    assert loop.timers == []
    open(1)
    assert not a.is_gone  # the number is free again


async def test_unique_allows_one_opened_channel_for_a_name() -> None:
    a, _ = mux_pair()
    first = create(a, "foo", b"id")
    second = create(a, "foo", b"id")  # none is opened yet
    first.open()
    assert a.create_channel("foo", b"id") is None
    assert create(a, "foo", b"other") is not None
    third = create(a, "foo", b"id", unique=False)
    third.open()
    second.open()
    assert a.last_channel("foo", b"id") is second
    second.close()
    assert a.last_channel("foo", b"id") is None
    assert a.is_opened("foo", b"id")
    first.close()
    third.close()
    assert not a.is_opened("foo", b"id")
    assert a.last_channel("foo", b"id") is None


async def test_channels_of_one_name_pair_in_order_whatever_the_order_of_opening() -> None:
    a, b = mux_pair()
    log = Log()
    senders = [create(a, unique=False, handshake=uint, messages=[uint]) for _ in range(2)]
    for number, channel in enumerate(senders):
        channel.open(number)
        channel.messages[0].send(10 + number)
    made = []

    def pair(_id: bytes | None) -> None:
        made.append(
            create(b, unique=False, handshake=uint, messages=[(uint, log.message)], **log.hooks())
        )

    b.pair("foo", callback=pair)
    await ticks()
    assert len(made) == 2
    made[1].open(0)
    made[0].open(0)
    await ticks()
    assert log == [("open", 0), 10, ("open", 1), 11]
    assert made[1].handshake == 0
    assert all(channel.is_open for channel in senders)
    senders[0].close()
    await ticks()
    assert made[1].is_closed
    assert made[0].is_open


async def test_a_channel_created_for_an_open_keeps_it_until_it_opens_or_closes() -> None:
    a, peer = mux_and_raw()
    made = []
    a.pair("foo", callback=lambda _id: made.append(create(a)))
    peer.open(1, "foo")
    await ticks()
    assert peer.frames == []
    made[0].close()
    assert await peer.wait_frames(1) == [b"\x00\x02\x01"]
    assert made[0].is_destroyed
    assert a.is_idle()


async def test_a_channel_created_before_the_open_takes_it_while_a_callback_runs() -> None:
    a, peer = mux_and_raw()
    early = create(a)
    release = asyncio.Event()

    async def pair(_id: bytes | None) -> None:
        await release.wait()

    a.pair("foo", callback=pair)
    peer.open(1, "foo")
    await ticks()
    early.open()
    assert await peer.wait_frames(1) == [b"\x00\x01\x01\x03foo\x00"]
    await ticks()
    assert early.is_open
    release.set()
    await ticks()
    assert peer.frames == []


# Aliases


async def test_an_open_under_an_alias_is_answered_under_that_name() -> None:
    a, b = mux_pair()
    b.pair("bar", callback=lambda _id: create(b, "foo", aliases=["bar"]).open())
    channel = create(a, "bar")
    channel.open()
    assert await channel.wait_opened()
    assert [channel.protocol for channel in b] == ["foo"]
    assert b.is_opened("bar")
    assert b.last_channel("bar") is b.last_channel("foo")


async def test_a_name_that_the_peer_does_not_know_is_said_again_as_the_alias() -> None:
    a, b = mux_pair()
    log = Log()
    one = create(a, "foo", aliases=["bar"], handshake=string, messages=[(string, log.message)])
    one.open("a")
    two = create(b, "bar", handshake=string)
    two.add_message(string, log.message)
    two.open("b")
    two.messages[0].send("hello world")
    one.messages[0].send("before it was known")
    assert await one.wait_opened()
    assert await two.wait_opened()
    one.messages[0].send("after it")
    await ticks()
    assert log == ["hello world", "before it was known", "after it"]
    assert (one.handshake, two.handshake) == ("b", "a")
    two.close()
    await ticks()
    assert a.is_idle()
    assert b.is_idle()


async def test_more_than_can_be_said_again_is_not_kept_for_an_alias() -> None:
    a, peer = mux_and_raw()
    channel = create(a, "foo", aliases=["bar"], messages=[raw])
    channel.open()
    peer.open(1, "bar")
    for _ in range(2):
        channel.messages[0].send(bytes(20_000))
    await ticks()
    assert channel.is_open
    peer.reject(1)
    await peer.wait_lost()
    assert isinstance(stream_of(a).error, ProtocolError)


async def test_an_alias_of_both_sides_needs_no_second_open() -> None:
    a, b = mux_pair()
    one = create(a, "foo", aliases=["bar"])
    two = create(b, "bar", aliases=["foo"])
    one.open()
    two.open()
    assert await one.wait_opened()
    assert await two.wait_opened()
    assert stream_of(a).error is None


async def test_an_alias_takes_over_opens_that_waited_under_it() -> None:
    a, peer = mux_and_raw()
    release = asyncio.Event()

    async def pair(_id: bytes | None) -> None:
        await release.wait()

    a.pair("bar", callback=pair)
    a.pair("baz", callback=pair)
    peer.open(1, "bar")
    peer.open(2, "baz")
    await ticks()
    channel = create(a, "foo", aliases=["bar", "baz", "foo"])
    channel.open()
    await ticks()
    assert channel.is_open
    assert peer.bodies() == [(0, b"\x01\x01\x03bar\x00")]
    release.set()
    await ticks()
    assert peer.bodies() == [(0, b"\x02\x02")]
    channel.close()
    assert a.is_idle()


async def test_opens_under_joined_names_go_to_the_first_channels_that_open() -> None:
    a, peer = mux_and_raw()
    made = []
    a.pair("bar", callback=lambda _id: made.append(create(a, "bar")))
    a.pair("foo", callback=lambda _id: made.append(create(a, "foo")))
    peer.open(1, "foo")
    peer.open(2, "bar")
    await ticks()
    made.append(create(a, "foo", aliases=["bar"]))
    for channel in reversed(made):
        channel.open()
    await ticks()
    # The peer takes an open for the answer to its own first of that name, so each is answered by
    # the next that opens here, and the third waits for an answer itself.
    assert peer.bodies() == [
        (0, b"\x01\x01\x03foo\x00"),
        (0, b"\x01\x02\x03bar\x00"),
        (0, b"\x01\x03\x03foo\x00"),
    ]
    assert [channel.is_open for channel in made] == [False, True, True]


# Closing


@pytest.mark.parametrize("closer", ["opener", "opened"])
async def test_either_side_closes(closer: str) -> None:
    a, b = mux_pair()
    log = Log()
    one, two = create(a, **log.hooks("a ")), create(b, **log.hooks("b "))
    one.open()
    two.open()
    await ticks()
    log.clear()
    (one if closer == "opener" else two).close()
    await asyncio.wait_for(one.wait_closed(), 5)
    await asyncio.wait_for(two.wait_closed(), 5)
    await asyncio.wait_for(two.wait_closed(), 5)
    assert sorted(log) == [
        ("a close", closer == "opened"),
        ("a destroy",),
        ("b close", closer == "opener"),
        ("b destroy",),
    ]
    assert a.is_idle()
    assert b.is_idle()
    assert not one.messages
    assert list(a) == list(b) == []


async def test_both_sides_close_at_once() -> None:
    a, b = mux_pair()
    one, two = create(a), create(b)
    one.open()
    two.open()
    await ticks()
    one.close()
    two.close()
    one.close()  # no effect
    await ticks()
    assert stream_of(a).error is None
    again = create(a)
    again.open()
    create(b).open()
    assert await again.wait_opened()


async def test_open_send_and_close_in_one_tick_all_arrive() -> None:
    a, b = mux_pair()
    log = Log()
    create(a, messages=[(string, log.message)], **log.hooks("a ")).open()
    two = create(b, **log.hooks("b "))
    two.open()
    two.add_message(string).send("hello")
    two.close()
    await ticks()
    assert log == [
        ("b close", False),
        ("b destroy",),
        ("a open", None),
        "hello",
        ("a close", True),
        ("a destroy",),
    ]
    assert a.is_idle()
    assert b.is_idle()


async def test_open_send_and_close_reach_a_channel_that_opens_later() -> None:
    a, peer = mux_and_raw()
    log = Log()
    release = asyncio.Event()

    async def pair(_id: bytes | None) -> None:
        await release.wait()
        create(a, messages=[(string, log.message)], **log.hooks()).open()

    a.pair("foo", callback=pair)
    peer.open(1, "foo")
    peer.message(1, 0, string.encode("hello"))
    peer.close(1)
    peer.message(1, 0, string.encode("after the close"))
    await ticks()
    release.set()
    await ticks()
    assert log == [("open", None), "hello", ("close", True), ("destroy",)]
    assert peer.bodies() == [(0, b"\x01\x01\x03foo\x00")]
    assert a.is_idle()


async def test_close_before_the_answer_keeps_the_number_until_the_answer() -> None:
    a, peer = mux_and_raw()
    channel = create(a)
    channel.open()
    channel.close()
    assert not a.is_idle()
    create(a, "bar").open()
    await ticks()
    assert peer.bodies() == [
        (0, b"\x01\x01\x03foo\x00"),
        (0, b"\x03\x01"),
        (0, b"\x01\x02\x03bar\x00"),
    ]
    peer.open(1, "foo")
    await ticks()
    # The peer may have taken our open for a channel that waits in its pair callback: see mux.
    assert peer.bodies() == [(0, b"\x03\x01")]
    peer.reject(2)
    await ticks()
    assert a.is_idle()
    create(a, "baz").open()
    await ticks()
    assert peer.bodies() == [(0, b"\x01\x02\x03baz\x00")]


async def test_close_before_the_answer_and_then_a_reject() -> None:
    a, b = mux_pair()
    log = Log()
    for number in range(10):
        channel = create(a, f"foo{number}", **log.hooks())
        channel.open()
        channel.close()
    assert log.count(("close", False)) == 10
    await ticks()
    assert a.is_idle()
    assert b.is_idle()


async def test_a_channel_closed_between_its_open_and_the_end_of_the_tick_never_opens() -> None:
    a, peer = mux_and_raw()
    log = Log()

    def pair(_id: bytes | None) -> None:
        channel = create(a, messages=[(string, log.message)], **log.hooks())
        channel.open()
        channel.close()

    a.pair("foo", callback=pair)
    peer.open(1, "foo")
    peer.message(1, 0, string.encode("lost"))
    await ticks()
    assert log == [("close", False), ("destroy",)]
    assert a.is_idle()


async def test_an_on_open_that_closes_ends_delivery() -> None:
    a, peer = mux_and_raw()
    log = Log()
    channel = create(
        a, messages=[(string, log.message)], on_open=lambda _handshake, channel: channel.close()
    )
    channel.open()
    peer.open(1, "foo")
    peer.message(1, 0, string.encode("too late"))
    await ticks()
    assert log == []
    assert channel.is_destroyed
    assert stream_of(a).error is None


async def test_sending_on_a_closed_channel_is_dropped() -> None:
    a, peer = mux_and_raw()
    channel = create(a)
    message = channel.add_message(string)
    channel.open()
    channel.close()
    assert message.send("nobody") is False
    await ticks()
    assert (1, b"\x00\x06nobody") not in peer.bodies()


async def test_numbers_are_used_again_last_freed_first() -> None:
    a, b = mux_pair()
    b.pair("foo", callback=lambda id: create(b, "foo", id).open())
    channels = [create(a, "foo", bytes([number])) for number in range(1, 5)]
    for channel in channels:
        channel.open()
    await ticks()
    for index in (1, 3):
        channels[index].close()
    await ticks()
    frames = written(a)
    for id in (b"x", b"y", b"z"):
        create(a, "foo", id).open()
        await ticks()
    assert [frame[2] for frame in frames] == [4, 2, 5]
    assert len(list(a)) == len(list(b)) == 5


# Messages


async def test_types_that_are_not_known_or_skipped_are_ignored() -> None:
    a, b = mux_pair()
    log = Log()
    one = create(a, "multi", messages=[int_, string, string, string])
    two = create(b, "multi", messages=[(int_, log.message), None, (string, log.message)])
    one.open()
    two.open()
    one.messages[0].send(42)
    one.messages[1].send("skipped over there")
    one.messages[2].send("a string with 42")
    one.messages[3].send("a type that the peer does not have")
    await ticks()
    assert log == [42, "a string with 42"]
    with pytest.raises(RuntimeError, match="skipped"):
        two.messages[1].send("x")


async def test_messages_can_be_given_in_every_form_and_hooks_later() -> None:
    a, b = mux_pair()
    log = Log()
    two = create(b, messages=[{"encoding": string, "on_message": log.message}, string, None])
    two.messages[1].on_message = log.message
    assert [message.type for message in two.messages] == [0, 1, 2]
    default: object = two.add_message().encoding
    assert default is raw
    one = create(a, messages=[string, string])
    one.open()
    two.open()
    one.messages[1].send("one")
    one.messages[0].send("two")
    await ticks()
    assert log == ["one", "two"]


async def test_a_value_that_does_not_fit_raises_in_the_sender_only() -> None:
    a, peer = mux_and_raw()
    channel = create(a)
    message = channel.add_message(uint)
    channel.open()
    with pytest.raises(EncodingError, match=r"from 0 to 2\^53-1, got int -1"):
        message.send(-1)
    await peer.wait_frames(1)
    assert not peer.is_lost


async def test_a_message_larger_than_a_frame_raises_in_the_sender_only() -> None:
    a, peer = mux_and_raw(Limits(frame_size=1000))
    channel = create(a, handshake=raw)
    with pytest.raises(LimitExceeded, match="at most 936 bytes, got"):
        channel.open(bytes(1000))
    message = channel.add_message(raw)
    channel.open(b"")
    with pytest.raises(LimitExceeded, match="at most 936 bytes, got 937"):
        message.send(bytes(936))
    message.send(bytes(900))
    message.send(bytes(900))
    batch, lone = await peer.wait_frames(2)
    assert batch == b"\x00\x00\x00\x07\x01\x01\x03foo\x00\x00\x01\xfd\x85\x03\x00" + bytes(900)
    assert lone == b"\x01\x00" + bytes(900)


# Batches


async def test_messages_of_one_tick_leave_as_one_batch() -> None:
    a, peer = mux_and_raw()
    one, two = create(a, "one"), create(a, "two")
    message = one.add_message(string)
    other = two.add_message(string)
    one.open()
    two.open()
    message.send("a")
    message.send("b")
    other.send("c")
    (frame,) = await peer.wait_frames(1)
    assert frame == bytes.fromhex(
        "0000 00 07 01 01 03 6f6e65 00 07 01 02 03 74776f 00"
        "00 01 03 00 01 61 03 00 01 62 00 02 03 00 01 63"
    )
    message.send("alone")
    assert await peer.wait_frames(1) == [b"\x01\x00\x05alone"]


async def test_corking_spans_ticks_and_nests() -> None:
    a, peer = mux_and_raw()
    channel = create(a)
    message = channel.add_message(uint)
    with a.corked():
        channel.open()
        channel.cork()
        message.send(1)
        await ticks()
        channel.uncork()
        message.send(2)
        await ticks()
        assert peer.frames == []
    (frame,) = await peer.wait_frames(1)
    assert frame.endswith(b"\x00\x01\x02\x00\x01\x02\x00\x02")
    a.cork()
    a.uncork()
    with pytest.raises(RuntimeError, match=r"expected a cork\(\)"):
        a.uncork()


async def test_a_batch_is_cut_at_eight_mebibytes() -> None:
    a, b = mux_pair()
    received = []
    one = create(a, messages=[buffer])
    two = create(b, messages=[(buffer, lambda data, _channel: received.append(data))])
    one.open()
    two.open()
    await ticks()
    frames = written(a)
    chunks = [bytes([number]) * (1024 * 1024) for number in range(32)]
    with a.corked():
        for chunk in chunks:
            one.messages[0].send(chunk)
    await ticks()
    assert received == chunks
    assert len(frames) == 4
    assert all(len(frame) > 8_000_000 for frame in frames)


async def test_a_batch_size_of_zero_makes_no_batches() -> None:
    a, peer = mux_and_raw(Limits(batch_size=0))
    channel = create(a, messages=[uint])
    channel.open()
    channel.messages[0].send(1)
    channel.messages[0].send(2)
    frames = await peer.wait_frames(3)
    assert frames == [b"\x00\x01\x01\x03foo\x00", b"\x01\x00\x01", b"\x01\x00\x02"]


async def test_a_reply_to_a_batch_is_a_batch() -> None:
    a, peer = mux_and_raw()
    channel = create(a, messages=[(uint, lambda value, channel: channel.messages[0].send(value))])
    channel.open()
    peer.open(1, "foo")
    await ticks()
    peer.bodies()
    peer.stream.write(b"\x00\x00\x01" + b"\x02\x00\x07" * 3)
    assert await peer.wait_frames(1) == [b"\x00\x00\x01" + b"\x02\x00\x07" * 3]


# Keeping up


async def test_drained_turns_false_and_on_drain_tells_when_it_is_true_again() -> None:
    a, b = mux_pair()
    log = Log()
    one = create(a, messages=[string])
    two = create(b, messages=[string], on_drain=lambda channel: log.append(channel.drained))
    assert a.drained
    assert one.drained
    one.open()
    two.open()
    await ticks()
    for _ in range(100_000):
        is_drained = two.messages[0].send("hello world")
        assert two.drained is b.drained is is_drained
        if not is_drained:
            break
    else:
        pytest.fail("a sender was never told to wait")
    assert log == []
    await ticks()
    assert log == [True]


async def test_a_stream_that_is_full_holds_on_drain_back() -> None:
    a, b = mux_pair()
    log = Log()
    one = create(a, messages=[raw], on_drain=lambda channel: log.append("drain"))
    one.open()
    create(b).open()
    await ticks()
    b.stream.pause_reading()
    assert one.messages[0].send(bytes(60_000))
    await ticks()
    assert a.drained
    one.messages[0].send(bytes(60_000))
    await ticks()
    assert not a.drained
    assert one.messages[0].send(b"more") is False
    await ticks()
    assert log == []
    b.stream.resume_reading()
    await ticks()
    assert log == ["drain"]
    assert a.drained


async def test_reading_pauses_past_the_bound_of_held_messages_and_resumes() -> None:
    a, peer = mux_and_raw()
    log = Log()
    release = asyncio.Event()

    async def pair(id: bytes | None) -> None:
        await release.wait()
        if id == b"wanted":
            create(a, "foo", id, messages=[(uint, log.message)]).open()

    a.pair("foo", callback=pair)
    peer.open(1, "foo", b"wanted")
    peer.open(2, "foo", b"unwanted", bytes(1000))
    for number in range(100):
        peer.message(1, 0, uint.encode(number))
    await ticks()
    assert stream_of(a)._is_paused
    release.set()
    await ticks()
    assert log == list(range(100))
    assert not stream_of(a)._is_paused
    assert peer.bodies()[-1] == (0, b"\x02\x02")


async def test_opens_that_wait_do_not_stop_reading() -> None:
    a, peer = mux_and_raw(Limits(waiting_size=49_500))
    release = asyncio.Event()

    async def pair(_id: bytes | None) -> None:
        await release.wait()

    a.pair("foo", callback=pair)
    for number in range(1, 1001):
        peer.open(number, "foo", number.to_bytes(2, "little"), bytes(40))
    peer.open(1001, "foo", b"one too many", bytes(40))
    await until(lambda: peer.frames)
    await until(lambda: not stream_of(a)._is_paused)
    assert peer.bodies() == [(0, b"\x02" + uint.encode(1001))]
    release.set()
    await until(lambda: not a._board._waiting)
    await ticks()
    assert len(peer.bodies()) == 1000
    assert a._board._waiting_size == 0


async def test_what_stands_behind_held_messages_in_a_batch_may_be_what_they_wait_for() -> None:
    a, peer = mux_and_raw()
    both = asyncio.Event()
    log: list[bytes] = []

    async def pair_first(_id: bytes | None) -> None:
        await both.wait()
        create(a, "first", messages=[(raw, lambda value, _channel: log.append(value))]).open()

    a.pair("first", callback=pair_first)
    a.pair("second", callback=lambda _id: both.set())
    peer.open(1, "first")
    large = b"\xfd\x01\x10\x00" + bytes(0x1000)
    peer.stream.write(b"\x00\x00\x01" + large * 20 + b"\x00\x00\x0a\x01\x02\x06second\x00")
    await until(lambda: len(log) == 20)


async def test_very_many_held_messages_stop_the_batch_that_they_came_in() -> None:
    a, peer = mux_and_raw(Limits(held_most=40_000))
    release = asyncio.Event()
    log: list[bytes] = []

    async def pair(_id: bytes | None) -> None:
        await release.wait()
        channel = create(a, "foo", messages=[(raw, lambda value, _channel: log.append(value))])
        channel.open()

    a.pair("foo", callback=pair)
    peer.open(1, "foo")
    bodies = b"".join(b"\x03\x00" + number.to_bytes(2, "big") for number in range(1000))
    peer.stream.write(b"\x00\x00\x01" + bodies)
    await ticks()
    assert stream_of(a)._is_paused
    assert a._board.held.size < 41_000
    release.set()
    await until(lambda: len(log) == 1000)
    assert log == [number.to_bytes(2, "big") for number in range(1000)]
    await until(lambda: not stream_of(a)._is_paused)


# Hooks


async def test_async_hooks_keep_the_channel_from_being_destroyed_until_they_end() -> None:
    a, b = mux_pair()
    log = Log()
    release = asyncio.Event()

    async def on_message(value: str, _channel: Channel) -> None:
        log.append(value)
        await release.wait()
        log.append("done")

    async def on_close(is_remote: bool, _channel: Channel) -> None:
        log.append(is_remote)

    one = create(
        a,
        messages=[(string, on_message)],
        on_close=on_close,
        on_destroy=lambda _channel: log.append("destroy"),
    )
    one.open()
    two = create(b, messages=[string])
    two.open()
    two.messages[0].send("hi")
    two.close()
    await ticks()
    assert one.is_closed
    assert not one.is_destroyed
    assert log == ["hi", True]
    waiter = asyncio.create_task(one.wait_closed())
    release.set()
    await waiter
    assert log == ["hi", True, "done", "destroy"]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", ["open", "message", "drain"])
async def test_a_hook_that_raises_destroys_the_stream(kind: str, is_async: bool) -> None:
    a, b = mux_pair()
    error = ValueError("of the application")

    def fail(*_args: object) -> None:
        raise error

    async def fail_later(*_args: object) -> None:
        await asyncio.sleep(0)
        raise error

    hook = fail_later if is_async else fail
    one = create(
        a,
        messages=[(raw, hook if kind == "message" else None)],
        on_open=hook if kind == "open" else None,
        on_drain=hook if kind == "drain" else None,
    )
    one.open()
    two = create(b, messages=[raw])
    two.open()
    two.messages[0].send(b"x")
    await ticks()
    if kind == "drain":
        one.messages[0].send(bytes(100_000))
        await ticks()
    assert stream_of(a).error is error
    assert isinstance(stream_of(b).error, StreamClosed)
    assert one.is_destroyed
    assert two.is_destroyed


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_hook_that_raises_after_the_close_is_only_logged(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = mux_pair()

    def fail(*_args: object) -> None:
        raise ValueError("too late to matter")

    async def fail_later(*_args: object) -> None:
        await asyncio.sleep(0)
        raise ValueError("too late to matter")

    one = create(a, on_close=fail_later if is_async else fail, on_destroy=fail)
    one.open()
    create(b).open()
    await ticks()
    with caplog.at_level(logging.ERROR, "protomux"):
        one.close()
        await asyncio.wait_for(one.wait_closed(), 5)
    assert len(caplog.records) == 2
    assert stream_of(a).error is None
    assert one.is_destroyed
    await ticks()
    again = create(a)
    again.open()
    create(b).open()
    assert await again.wait_opened()


async def test_a_cancelled_hook_is_no_failure() -> None:
    a, b = mux_pair()

    async def on_message(_value: bytes, _channel: Channel) -> None:
        raise asyncio.CancelledError

    one = create(a, messages=[(raw, on_message)])
    one.open()
    two = create(b, messages=[raw])
    two.open()
    two.messages[0].send(b"x")
    await ticks()
    assert one.is_open


# The stream


async def test_of_gives_the_one_mux_of_a_stream() -> None:
    a, b = memory_pair()
    mux = Protomux.of(a)
    assert Protomux.of(a) is mux
    assert Protomux.of(mux) is mux
    with pytest.raises(ValueError, match="without a receiver"):
        Protomux(a)
    RawPeer(b)
    with pytest.raises(ValueError, match="without a receiver"):
        Protomux.of(b)


async def test_iteration_gives_what_is_opened_here() -> None:
    a, b = mux_pair()
    channels = [create(a, str(number)) for number in range(3)]
    for channel in channels:
        channel.open()
        create(b, channel.protocol).open()
    create(a, "never opened")
    assert list(a) == channels
    channels[1].close()
    assert list(a) == [channels[0], channels[2]]


async def test_a_lost_stream_closes_everything_and_wakes_everyone() -> None:
    a, b = mux_pair()
    log = Log()
    channels = [create(a, str(number), **log.hooks()) for number in range(3)]
    channels[0].open()
    channels[1].open()
    create(b, "0").open()
    b.pair("1", callback=lambda _id: asyncio.Event().wait())
    waiting = [asyncio.create_task(channel.wait_opened()) for channel in channels[1:]]
    closing = [asyncio.create_task(channel.wait_closed()) for channel in channels]
    told: list[Exception | None] = []
    a.add_close_callback(told.append)
    await ticks()
    error = ProtocolError("as a test")
    a.destroy(error)
    a.destroy(None)  # the first counts
    assert [await waiter for waiter in waiting] == [False, False]
    await asyncio.gather(*closing)
    assert log.count(("close", True)) == 3
    assert a.create_channel("foo") is None
    assert told == [error]
    assert a.is_idle()
    assert channels[0].messages == []
    a.add_close_callback(told.append)
    await ticks()
    assert told == [error, error]
    with pytest.raises(StreamClosed):
        channels[2].open()


async def test_hooks_that_close_and_open_while_the_stream_goes_are_harmless() -> None:
    a, _ = mux_pair()
    log = Log()
    raised: list[StreamClosed] = []

    def on_close(_is_remote: bool, _channel: Channel) -> None:
        second.close()
        try:
            unopened.open()
        except StreamClosed as error:
            raised.append(error)
        assert a.create_channel("more") is None

    first = create(a, "first", on_close=on_close)
    second = create(a, "second", **log.hooks())
    unopened = create(a, "unopened", **log.hooks())
    first.open()
    second.open()
    await ticks(1)
    a.destroy()
    await ticks()
    assert log == [("close", False), ("destroy",), ("close", True), ("destroy",)]
    assert len(raised) == 1
    assert first.is_destroyed


async def test_closing_a_channel_that_was_never_opened_says_nothing() -> None:
    a, peer = mux_and_raw()
    log = Log()
    create(a, **log.hooks()).close()
    await ticks()
    assert log == [("close", False), ("destroy",)]
    assert peer.frames == []
    assert a.is_idle()


async def test_several_may_wait_for_one_channel() -> None:
    a, b = mux_pair()
    channel = create(a)
    waiting = [asyncio.create_task(channel.wait_opened()) for _ in range(2)]
    cancelled = asyncio.create_task(channel.wait_opened())
    await ticks(1)
    cancelled.cancel()
    channel.open()
    create(b).open()
    assert await asyncio.gather(*waiting) == [True, True]
    closing = [asyncio.create_task(channel.wait_closed()) for _ in range(2)]
    await ticks(1)
    channel.close()
    await asyncio.gather(*closing)
    assert await channel.wait_opened()


async def test_a_close_callback_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    a, _ = mux_pair()
    told: list[Exception | None] = []

    def fail(_error: Exception | None) -> None:
        raise ValueError("of the application")

    a.add_close_callback(fail)
    a.add_close_callback(told.append)
    a.destroy()
    await ticks()
    assert [str(error) for error in told] == ["the stream was aborted"]
    assert "close callback" in caplog.text


async def test_what_was_sent_in_the_tick_of_an_orderly_close_arrives() -> None:
    a, b = mux_pair()
    log = Log()
    one = create(a, messages=[string])
    two = create(b, messages=[(string, log.message)])
    one.open()
    two.open()
    one.messages[0].send("last words")
    a.stream.close()
    await a.stream.wait_closed()
    await b.stream.wait_closed()
    assert log == ["last words"]
    assert stream_of(a).error is None
    assert stream_of(b).error is None


async def test_nothing_is_sent_or_received_after_destroy() -> None:
    a, peer = mux_and_raw()
    log = Log()
    channel = create(a, messages=[(raw, log.message)])
    channel.open()
    await peer.wait_frames(1)
    peer.open(1, "foo")
    await ticks()
    channel.messages[0].send(b"not flushed")
    a.destroy()
    assert channel.messages[0].send(b"x") is False
    a.frame_received(b"\x01\x00x")
    assert a.create_channel("bar") is None
    await peer.wait_lost()
    assert peer.frames == []
    assert log == []


async def test_a_message_that_destroys_the_stream_ends_its_batch() -> None:
    a, peer = mux_and_raw()
    log = Log()

    def on_message(value: int, _channel: Channel) -> None:
        log.append(value)
        if value == 2:
            a.destroy()

    channel = create(a, messages=[(uint, on_message)])
    channel.open()
    peer.open(1, "foo")
    peer.stream.write(b"\x00\x00\x01\x02\x00\x01\x02\x00\x02\x02\x00\x03")
    await peer.wait_lost()
    assert log == [1, 2]


async def test_held_messages_stop_when_the_stream_is_destroyed() -> None:
    a, peer = mux_and_raw()
    log = Log()

    def on_message(value: int, _channel: Channel) -> None:
        log.append(value)
        a.destroy()

    a.pair("foo", callback=lambda _id: create(a, messages=[(uint, on_message)]).open())
    peer.stream.write(b"\x00\x00\x00\x07\x01\x01\x03foo\x00\x00\x01\x02\x00\x01\x02\x00\x02")
    await peer.wait_lost()
    assert log == [1]


async def test_a_stream_that_is_lost_inside_a_call_is_no_crash() -> None:
    a, _ = mux_pair(Limits(batch_size=0))
    stream = stream_of(a)

    def lose(frame: bytes) -> bool:
        stream._lose(StreamClosed("inside write"))
        return False

    log = Log()
    one = create(a, "one", **log.hooks())
    two = create(a, "two")
    one.open()
    stream.write = lose  # type: ignore[method-assign]
    two.open()
    assert one.is_destroyed
    assert two.is_destroyed
    assert log == [("close", True), ("destroy",)]

    a, _ = mux_pair(Limits(batch_size=0))
    stream = stream_of(a)
    one, two = create(a, "one"), create(a, "two")
    one.open()
    two.open()
    stream.write = lose  # type: ignore[method-assign]
    one.close()
    assert one.is_destroyed
    assert two.is_destroyed


async def test_a_stream_that_raises_when_written_to_is_aborted() -> None:
    a, _ = mux_pair()
    error = OSError("no more")

    def fail(frame: bytes) -> bool:
        raise error

    stream_of(a).write = fail  # type: ignore[method-assign]
    channel = create(a)
    channel.open()
    await channel.wait_closed()
    assert stream_of(a).error is error


async def test_a_cancelled_call_of_a_plain_hook_is_no_failure() -> None:
    a, peer = mux_and_raw()

    def cancelled(*_args: object) -> None:
        raise asyncio.CancelledError

    channel = create(a, messages=[raw], on_open=cancelled)
    channel.open()
    a.pair("bar", callback=cancelled)
    peer.open(1, "foo")
    peer.open(2, "bar")
    await ticks()
    assert channel.is_open
    assert (0, b"\x02\x02") in peer.bodies()


async def test_on_drain_is_not_told_to_a_channel_that_another_one_closed() -> None:
    a, _ = mux_pair()
    log = Log()
    second = create(a, "second", **log.hooks())
    first = create(a, "first", messages=[raw], on_drain=lambda _channel: second.close())
    first.open()
    second.open()
    assert not first.messages[0].send(bytes(100_000))
    await ticks()
    assert ("drain",) not in log


async def test_messages_of_the_wrong_form_leave_the_peers_open_alone() -> None:
    a, peer = mux_and_raw()

    def pair(_id: bytes | None) -> None:
        with pytest.raises(TypeError):
            a.create_channel("foo", messages=[{"encodign": raw}])

    a.pair("foo", callback=pair)
    peer.open(1, "foo")
    assert await peer.wait_frames(1) == [b"\x00\x02\x01"]


async def test_what_is_sent_after_the_close_in_one_tick_arrives() -> None:
    a, b = mux_pair()
    log = Log()
    one = create(a, messages=[string])
    create(b, messages=[(string, log.message)]).open()
    one.open()
    await ticks()
    with a.corked():
        one.messages[0].send("before")
        a.stream.close()
    one.messages[0].send("after")
    await a.stream.wait_closed()
    assert log == ["before", "after"]


async def test_ids_may_be_anything_bytes_like() -> None:
    a, b = mux_pair()
    calls: list[bytes | None] = []
    b.pair("foo", bytearray(b"id"), callback=calls.append)
    create(a, "foo", memoryview(b"id")).open()
    assert a.is_opened("foo", bytearray(b"id"))
    assert a.last_channel("foo", bytearray(b"id")) is not None
    await ticks()
    assert calls == [b"id"]
    b.unpair("foo", bytearray(b"id"), callback=print)
    assert b._board.pair_callbacks.find("foo", b"id")
    b.unpair("foo", bytearray(b"id"))
    assert not b._board.pair_callbacks.find("foo", b"id")


async def test_a_bound_method_is_known_again() -> None:
    class Asked:
        def __init__(self) -> None:
            self.ids: list[bytes | None] = []

        def on_pair(self, id: bytes | None) -> None:
            self.ids.append(id)

    a, b = mux_pair()
    one, other = Asked(), Asked()
    b.pair("foo", callback=one.on_pair)
    b.unpair("foo", callback=other.on_pair)
    create(a, "foo").open()
    await ticks()
    assert one.ids == [None]
    b.unpair("foo", callback=one.on_pair)
    create(a, "foo", b"other").open()
    await ticks()
    assert one.ids == [None]


# What a peer may not do


@pytest.mark.parametrize(
    ("frames", "error", "text"),
    [
        (["00"], EncodingError, "expected 1 bytes of an integer"),
        (["0001"], EncodingError, "expected 1 bytes of an integer"),
        (["00010003666f6f00"], ProtocolError, "from 1 to 1, got 0"),
        (["00010203666f6f00"], ProtocolError, "from 1 to 1, got 2"),
        (["00010103666f6f00"] * 2, ProtocolError, "from 1 to 2, got 1"),
        (["00010103666f"], EncodingError, "expected 3 bytes of a buffer"),
        (["00010102c32800"], EncodingError, "expected UTF-8 text"),
        (["000201"], ProtocolError, "channel 1 does not wait"),
        (["0002"], EncodingError, "integer"),
        (["0003"], EncodingError, "integer"),
        (["000000 0100"], ProtocolError, "no batch inside a batch"),
        (["000000 0503"], ProtocolError, "expected 5 bytes of a batched message at 4, got 1"),
        (["000000 00"], EncodingError, "integer"),
        (["ffffffffffffffffff"], EncodingError, r"up to 2\^53-1"),
        (["fd00"], EncodingError, "expected 2 bytes of an integer"),
    ],
)
async def test_a_frame_that_breaks_the_protocol_destroys_the_stream(
    frames: list[str], error: type[Exception], text: str
) -> None:
    a, peer = mux_and_raw()
    a.pair("foo", callback=lambda _id: asyncio.Event().wait())
    for frame in frames:
        peer.stream.write(bytes.fromhex(frame))
    await peer.wait_lost()
    with pytest.raises(error, match=text):
        raise stream_of(a).error or AssertionError("no error")


async def test_what_may_be_in_flight_is_ignored() -> None:
    a, peer = mux_and_raw()
    peer.stream.write(b"")  # an empty frame
    peer.stream.write(b"\x00\x09unknown control type")
    peer.stream.write(b"\x07\x00a message for no channel")
    peer.close(7)
    peer.close(0)
    channel = create(a)
    channel.open()
    peer.open(1, "foo")
    assert await channel.wait_opened()


async def test_a_message_that_does_not_decode_destroys_the_stream() -> None:
    a, peer = mux_and_raw()
    channel = create(a, messages=[(string, lambda *_args: None)])
    channel.open()
    peer.open(1, "foo")
    peer.message(1, 0, b"\x05abc")
    await peer.wait_lost()
    assert isinstance(stream_of(a).error, EncodingError)


async def test_a_handshake_that_does_not_decode_destroys_the_stream() -> None:
    a, peer = mux_and_raw()
    a.pair("foo", callback=lambda _id: create(a, handshake=string).open("x"))
    peer.open(1, "foo", None, b"\x05abc")
    await peer.wait_lost()
    assert isinstance(stream_of(a).error, EncodingError)


@pytest.mark.parametrize(
    ("protocol", "id"), [("x" * 1025, None), ("x", bytes(1025))], ids=["protocol", "id"]
)
async def test_a_name_past_its_bound_destroys_the_stream(protocol: str, id: bytes | None) -> None:
    a, peer = mux_and_raw()
    peer.open(1, protocol, id)
    await peer.wait_lost()
    with pytest.raises(LimitExceeded, match="at most 1024 bytes, got"):
        raise stream_of(a).error or AssertionError("no error")


@pytest.mark.parametrize(
    "limits", [Limits(channels=3), Limits(waiting_opens=3)], ids=["channels", "waiting"]
)
async def test_opens_past_their_bound_are_rejected(limits: Limits) -> None:
    a, peer = mux_and_raw(limits)
    a.pair("foo", callback=lambda _id: asyncio.Event().wait())
    for number in range(1, 6):
        peer.open(number, "foo", bytes([number]))
    await ticks()
    assert peer.bodies() == [(0, b"\x02\x04"), (0, b"\x02\x05")]


async def test_names_of_the_wrong_type_raise() -> None:
    a, _ = mux_pair()
    with pytest.raises(EncodingError, match="expected a str, got int 7"):
        a.create_channel(7)  # type: ignore[arg-type]
    with pytest.raises(EncodingError, match="expected an id of bytes or None, got 'x'"):
        a.create_channel("foo", "x")  # type: ignore[arg-type]
    channel = create(a, "foo", bytearray(b"id"))
    assert channel.id == b"id"
    assert create(a, "foo", b"").id is None


async def test_reprs_say_what_things_are() -> None:
    a, b = mux_pair()
    channel = create(a, "foo", b"\x01\x02", messages=[raw])
    assert repr(channel) == "<Channel 'foo' 0102 created>"
    assert repr(channel.messages[0]) == "<Message 0 of <Channel 'foo' 0102 created>>"
    assert repr(create(a, "bar")) == "<Channel 'bar' created>"
    channel.open()
    assert repr(a) == "<Protomux 1 channels on <MemoryStream initiator open>>"
    b.stream.close()
    assert repr(b.stream) == "<MemoryStream responder closing>"
    await a.stream.wait_closed()
    assert repr(a) == "<Protomux gone on <MemoryStream initiator gone>>"
