"""Opening, pairing and closing against the original. The Node twins are in cases/mux.mjs."""

from __future__ import annotations

import asyncio
from typing import Any

from protomux import Channel, encoding

from .harness import SYMMETRIC, interop
from .twin import (
    CLOSED_BY_REMOTE,
    CLOSED_BY_US,
    Event,
    Inbox,
    Mux,
    Peer,
    Watched,
    message,
    protocols,
    watch,
)

# Opening and pairing


@interop()
async def test_basic(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    foo = await peer.meet(mux, "foo")

    if peer.opener:
        foo.send("hello world")
    assert await foo.log.next() == ("open", None)
    if not peer.opener:
        assert await foo.log.next() == message("hello world")
    await peer.fence(mux)
    assert foo.log.items == []


@interop()
async def test_echo(peer: Peer) -> None:
    mux = Mux(await peer.stream())

    if peer.opener:
        other = watch(mux, "other")  # nobody pairs with this one
        other.channel.open()
        foo = await peer.meet(mux, "foo")
        foo.send("hello world")
        assert await foo.log.take(2) == [("open", None), message("echo: hello world")]
        assert await other.log.take(2) == CLOSED_BY_REMOTE
        assert protocols(mux) == ["foo"]
    else:

        def echo(text: str, channel: Channel) -> None:
            channel.messages[0].send(f"echo: {text}")

        foo = await peer.meet(mux, "foo", messages=[(encoding.string, echo)])
    await peer.fence(mux)


@interop(ways=SYMMETRIC)
async def test_both_open_at_once(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    # Both open before either has read anything.
    foo = watch(mux, "foo", handshake=encoding.uint)
    foo.channel.open(1 if peer.initiator else 2)
    foo.send("first")

    remote = 2 if peer.initiator else 1
    assert await foo.log.take(2) == [("open", remote), message("first")]
    foo.send("second")
    assert await foo.log.next() == message("second")
    await peer.fence(mux)
    assert [entry for entry in mux.entries if " foo" in entry] == [f"open 1 foo +0{remote}"]


@interop(ways=SYMMETRIC)
async def test_many_open_at_once_pair_in_order(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    opened = []
    for number in range(5):
        foo = watch(mux, "foo", unique=False, handshake=encoding.uint)
        foo.channel.open(number)
        opened.append(foo)

    for number, foo in enumerate(opened):
        assert await foo.log.next() == ("open", number)
        foo.send(f"on {number}")
        assert await foo.log.next() == message(f"on {number}")


@interop()
async def test_pairs_by_protocol_and_id_in_order(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    names = [("foo", None), ("foo", b"\1"), ("foo", b"\1\2"), ("bar", b"\1")]
    every = names * 3  # three of each, numbered 0 to 11

    def create(protocol: str, id: bytes | None, number: int) -> Watched:
        watched = watch(mux, protocol, id=id, unique=False, handshake=encoding.uint)
        watched.channel.open(number)
        return watched

    if peer.opener:
        opened = [create(*name, number) for number, name in enumerate(every)]
    else:
        offers: Inbox[tuple[str, bytes | None]] = Inbox()
        paired_all = asyncio.Event()

        def offered(protocol: str) -> Any:
            async def callback(id: bytes | None) -> None:
                offers.push((protocol, id))
                await paired_all.wait()

            return callback

        for protocol in ("foo", "bar"):
            mux.pair(protocol, callback=offered(protocol))
        assert await offers.take(12) == every
        order = names[::-1] * 3
        opened = [create(*name, number) for number, name in enumerate(order)]
        paired_all.set()
    # The other side opens the names in reverse, the three of a name in the order of their opens.
    answers = [(await watched.log.next())[1] for watched in opened]
    assert answers == [3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8]


@interop()
async def test_messages_are_held_until_the_local_open(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    types = (encoding.string, encoding.uint)

    if peer.opener:
        foo = watch(mux, "foo", types=types, handshake=encoding.string)
        foo.channel.open("hi")
        foo.send("early")
        for number in range(20):
            foo.send(number, 1)
        await peer.sync("sent")
        foo.send("late")
        peer.tell("sent more")
        assert await foo.log.take(2) == [("open", "hello"), message("answer")]
        return

    offers: Inbox[str] = Inbox()
    opened: Inbox[Watched] = Inbox()

    async def offered(_: bytes | None) -> None:
        offers.push("foo")
        await peer.hear("sent more")
        foo = watch(mux, "foo", types=types, handshake=encoding.string)
        foo.channel.open("hello")
        foo.send("answer")
        opened.push(foo)

    mux.pair("foo", callback=offered)
    await offers.next()
    await peer.sync("sent")
    foo = await opened.next()
    assert await foo.log.take(23) == [
        ("open", "hi"),
        message("early"),
        *(message(number, 1) for number in range(20)),
        message("late"),
    ]


@interop()
async def test_handshakes(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    mine, theirs = ("yes", "no") if peer.initiator else ("no", "yes")
    foo = await peer.meet(mux, "foo", handshake=encoding.string, open=mine)

    assert await foo.log.next() == ("open", theirs)
    assert foo.channel.handshake == theirs


@interop()
async def test_unique(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    foo = await peer.meet(mux, "foo", unique=True)
    await foo.channel.wait_opened()

    assert mux.create_channel("foo") is None
    assert mux.is_opened("foo")
    assert mux.last_channel("foo") is foo.channel
    assert not mux.is_opened("foo", b"\1")
    assert mux.last_channel("bar") is None
    await peer.fence(mux)  # both have looked

    second = await peer.meet(mux, "foo", unique=False)
    await second.channel.wait_opened()
    await peer.sync("two are open")
    assert mux.last_channel("foo") is second.channel
    await peer.sync("both have looked")
    second.channel.close()
    await second.channel.wait_closed()
    assert mux.last_channel("foo") is None
    assert mux.is_opened("foo")
    await peer.fence(mux)
    assert not foo.channel.is_closed


@interop()
async def test_user_data_is_there_on_open(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    seen: Inbox[object] = Inbox()

    def create() -> None:
        channel = mux.create_channel(
            "foo", bytes(32), on_open=lambda _, channel: seen.push(channel.user_data)
        )
        assert channel is not None
        channel.user_data = "mine"
        channel.open()

    async def offered(_: bytes | None) -> None:
        create()

    if peer.opener:
        create()
    else:
        mux.pair("foo", bytes(32), callback=offered)
    assert await seen.next() == "mine"


@interop()
async def test_on_open_runs_after_the_pair_callback(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    log: Inbox[str] = Inbox()

    def create() -> None:
        channel = mux.create_channel("foo", bytes(32), on_open=lambda *_: log.push("open"))
        assert channel is not None
        channel.open()
        log.push("created")

    def offered(_: bytes | None) -> None:
        create()
        log.push("paired")

    if peer.opener:
        create()
        assert await log.take(2) == ["created", "open"]
    else:
        mux.pair("foo", bytes(32), callback=offered)
        assert await log.take(3) == ["created", "paired", "open"]


@interop()
async def test_the_id_outlives_its_frame(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    id = b"\7" * 32

    if peer.opener:
        foo = watch(mux, "foo", id=id)
        foo.channel.open()
        assert await foo.log.next() == ("open", None)
    else:
        offers: Inbox[bytes | None] = Inbox()

        def offered(id: bytes | None) -> None:
            watch(mux, "foo", id=id).channel.open()
            offers.push(id)

        mux.pair("foo", callback=offered)
        offer = await offers.next()
        assert offer == id
        assert type(offer) is bytes  # holds on to nothing but itself


@interop()
async def test_pair_serves_the_exact_id_then_the_protocol(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    ids = (b"\1", b"\2", None)

    async def outcomes() -> list[bool]:
        opened = []
        for id in ids:
            foo = watch(mux, "foo", id=id)
            foo.channel.open()
            opened.append(await foo.channel.wait_opened())
            foo.channel.close()
        return opened

    if peer.opener:
        assert await outcomes() == [True, True, True]
        await peer.sync("seen")
        await peer.sync("id unpaired")
        assert await outcomes() == [True, True, True]
        await peer.sync("seen")
        await peer.sync("protocol unpaired")
        assert await outcomes() == [False, False, False]
        return

    calls = []

    def answer(name: str) -> Any:
        def callback(id: bytes | None) -> None:
            calls.append((name, id))
            watch(mux, "foo", id=id, unique=False).channel.open()

        return callback

    mux.pair("foo", b"\1", callback=answer("exact"))
    mux.pair("foo", callback=answer("protocol"))
    await peer.sync("seen")
    mux.unpair("foo", b"\1")
    await peer.sync("id unpaired")
    await peer.sync("seen")
    mux.unpair("foo")
    await peer.sync("protocol unpaired")
    assert calls == [
        *(("exact", b"\1"), ("protocol", b"\2"), ("protocol", None)),
        *(("protocol", b"\1"), ("protocol", b"\2"), ("protocol", None)),
    ]


@interop()
async def test_an_async_pair_callback_decides_later(peer: Peer) -> None:
    mux = Mux(await peer.stream())

    if peer.opener:
        foo = watch(mux, "foo")
        bar = watch(mux, "bar")
        foo.channel.open()
        # On its own: the original answers nothing of a batch before all of it.
        await peer.hear("offered")
        bar.channel.open()
        # An async callback that ends without a channel is a rejection, whatever else waits.
        assert await bar.log.take(2) == CLOSED_BY_REMOTE
        assert foo.log.items == []
        peer.tell("rejected")
        assert await foo.log.next() == ("open", None)
    else:
        opened: Inbox[Watched] = Inbox()

        async def decline(_: bytes | None) -> None:
            await asyncio.sleep(0)

        async def accept(_: bytes | None) -> None:
            peer.tell("offered")
            await peer.hear("rejected")
            foo = watch(mux, "foo")
            foo.channel.open()
            await asyncio.sleep(0)
            opened.push(foo)

        mux.pair("bar", callback=decline)
        mux.pair("foo", callback=accept)
        foo = await opened.next()
        assert await foo.log.next() == ("open", None)
    await peer.fence(mux)


@interop()
async def test_an_alias_of_ours_pairs(peer: Peer) -> None:
    # This side knows "foo", alias "bar"; the Node side only "bar". The original would send "foo"
    # in either case and be rejected; ours opens under the name that the peer knows, and says again
    # what it sent before that.
    mux = Mux(await peer.stream())
    log: Inbox[Event] = Inbox()

    def on_open(handshake: str, channel: Channel) -> None:
        log.push(("open", handshake))
        channel.messages[0].send("on open")

    def create() -> Watched:
        foo = watch(mux, "foo", aliases=["bar"], handshake=encoding.string, on_open=on_open)
        foo.channel.open("python")
        foo.send("hello from python")
        return foo

    if peer.opener:
        foo = create()  # crosses the open for "bar"; its rejection finds it paired already
    else:
        created: Inbox[Watched] = Inbox()
        mux.pair("bar", callback=lambda _: created.push(create()))
        foo = await created.next()
    assert await log.next() == ("open", "node")
    assert await foo.log.next() == message("hello from node")
    await peer.fence(mux)
    assert foo.log.items == [message("bye")]
    assert foo.channel.is_open
    assert mux.is_opened("foo")


@interop(ways=SYMMETRIC)
async def test_an_alias_of_theirs_pairs_one_way(peer: Peer) -> None:
    # The Node side knows "foo", alias "bar"; this one only "bar", so it rejects "foo". The original
    # forgets that it was paired through the alias, and takes that rejection for a stray one.
    stream = await peer.stream()
    mux = Mux(stream)
    bar = watch(mux, "bar", handshake=encoding.string)
    bar.channel.open("python")
    bar.send("hello from python")
    await stream.wait_closed()
    assert bar.log.items == CLOSED_BY_REMOTE
    assert await bar.channel.wait_opened() is False


# Opened or not


@interop()
async def test_wait_opened_and_wait_closed(peer: Peer) -> None:
    mux = Mux(await peer.stream())

    if peer.opener:
        channel = watch(mux, "foo").channel
        channel.open()
        assert await channel.wait_opened() is False
        assert await channel.wait_opened() is False  # also when asked again
        await channel.wait_closed()
    await peer.sync("rejected")

    foo = await peer.meet(mux, "foo")
    assert await foo.channel.wait_opened() is True
    assert await foo.channel.wait_opened() is True
    if not peer.opener:
        foo.channel.close()
    await foo.channel.wait_closed()
    await foo.channel.wait_closed()
    closed = CLOSED_BY_REMOTE if peer.opener else CLOSED_BY_US
    assert foo.log.items == [("open", None), *closed]


@interop()
async def test_rejections(peer: Peer) -> None:
    mux = Mux(await peer.stream())

    if peer.opener:
        opened = [watch(mux, f"foo#{number}") for number in range(10)]
        for foo in opened:
            foo.channel.open()
        for foo in opened:
            assert await foo.log.take(2) == CLOSED_BY_REMOTE
            assert await foo.channel.wait_opened() is False
        assert mux.is_idle()
    await peer.fence(mux)
    assert protocols(mux) == ["fence"]


@interop()
async def test_close_ahead_of_the_rejection(peer: Peer) -> None:
    mux = Mux(await peer.stream())

    if peer.opener:
        for number in range(10):
            foo = watch(mux, f"foo#{number}")
            foo.channel.open()
            foo.channel.close()
            assert foo.log.items == CLOSED_BY_US
        last = watch(mux, "last")
        last.channel.open()
        assert not mux.is_idle()  # the numbers are in use until their opens are answered
        assert await last.log.take(2) == CLOSED_BY_REMOTE
        assert mux.is_idle()
        # Freed in the order 1 to 11, taken again from the end.
        for name in "xyz":
            watch(mux, name).channel.open()
    await peer.fence(mux)
    opens = [] if peer.opener else ["open 11 x", "open 10 y", "open 9 z"]
    assert [entry for entry in mux.entries if entry[-1] in "xyz"] == opens


# Closing


@interop()
async def test_either_side_closes(peer: Peer) -> None:
    mux = Mux(await peer.stream())

    for name, closes in (("foo", peer.opener), ("bar", not peer.opener)):
        foo = await peer.meet(mux, name)
        await foo.channel.wait_opened()
        if closes:
            foo.send("last words")
            foo.channel.close()
            foo.channel.close()
            assert foo.log.items == [("open", None), *CLOSED_BY_US]
        else:
            assert await foo.log.take(4) == [
                ("open", None),
                message("last words"),
                *CLOSED_BY_REMOTE,
            ]
        assert foo.send("too late") is False
        assert mux.is_idle()
        assert not mux.is_opened(name)
        await peer.sync(f"closed {name}")


@interop()
async def test_both_close_at_once(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    foo = await peer.meet(mux, "foo")
    await foo.channel.wait_opened()

    mux.stream.pause_reading()
    await peer.sync("paused")  # neither sees the other's close before its own
    foo.channel.close()
    await peer.sync("closed")
    mux.stream.resume_reading()
    await peer.fence(mux)
    assert foo.log.items == [("open", None), *CLOSED_BY_US]

    again = await peer.meet(mux, "foo")
    assert await again.channel.wait_opened() is True


@interop()
async def test_messages_in_flight_are_dropped_after_a_close(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    foo = await peer.meet(mux, "foo")
    await foo.channel.wait_opened()

    mux.stream.pause_reading()
    await peer.sync("paused")
    if peer.opener:
        for number in range(5):
            foo.send(f"in flight {number}")
        peer.tell("sent")
    else:
        foo.channel.close()
        await peer.hear("sent")
    mux.stream.resume_reading()
    await peer.fence(mux)
    closed = CLOSED_BY_REMOTE if peer.opener else CLOSED_BY_US
    assert foo.log.items == [("open", None), *closed]


@interop()
async def test_numbers_are_used_again(peer: Peer) -> None:
    mux = Mux(await peer.stream())

    if peer.opener:

        def open(name: str) -> Watched:
            watched = watch(mux, name)
            watched.channel.open()
            return watched

        async def close(watched: Watched) -> None:
            assert await watched.channel.wait_opened() is True
            watched.channel.close()

        _, b, c = open("a"), open("b"), open("c")
        await close(b)
        await close(c)
        d = open("d")  # 3: freed last
        e = open("e")  # 2
        await d.channel.wait_opened()
        await e.channel.wait_opened()
        open("f")  # 4: no other is free
        await close(e)
        for number in range(50):
            await close(open(f"g{number}"))  # always 2
        h = open("h")
        h.send("done")
        assert await h.log.take(2) == [("open", None), message("seen")]
        assert sorted(protocols(mux)) == ["a", "d", "f", "h"]
        return

    last: Inbox[Watched] = Inbox()

    def answer(name: str) -> Any:
        def callback(_: bytes | None) -> None:
            watched = watch(mux, name)
            watched.channel.open()
            if name == "h":
                last.push(watched)

        return callback

    for name in (*"abcdefh", *(f"g{number}" for number in range(50))):
        mux.pair(name, callback=answer(name))
    h = await last.next()
    assert await h.log.take(2) == [("open", None), message("done")]
    opens = [entry for entry in mux.entries if entry.startswith("open")]
    assert [entry for entry in opens if " g" not in entry] == [
        *("open 1 a", "open 2 b", "open 3 c", "open 3 d", "open 2 e", "open 4 f", "open 2 h")
    ]
    assert [entry for entry in opens if " g" in entry] == [f"open 2 g{n}" for n in range(50)]
    h.send("seen")


@interop()
async def test_open_send_close_in_one_tick(peer: Peer) -> None:
    mux = Mux(await peer.stream())
    # Both have opened before they read, as otherwise the original closes before it opens.
    foo = watch(mux, "foo")
    foo.channel.open()
    if peer.opener:
        foo.send("hello")
        foo.channel.close()
        assert foo.log.items == CLOSED_BY_US
    else:
        assert await foo.log.take(4) == [("open", None), message("hello"), *CLOSED_BY_REMOTE]
    await peer.fence(mux)
    assert protocols(mux) == ["fence"]


@interop()
async def test_open_send_close_reaches_a_pair_callback(peer: Peer) -> None:
    mux = Mux(await peer.stream())

    if peer.opener:
        foo = watch(mux, "foo")
        foo.channel.open()
        foo.send("hello")
        foo.channel.close()
        await peer.fence(mux)
        assert foo.log.items == CLOSED_BY_US
    else:
        # The original closes the channel before it opens it, so that neither hook nor message
        # comes. What was sent in time is not lost here.
        foo = await peer.meet(mux, "foo")
        assert await foo.log.take(4) == [("open", None), message("hello"), *CLOSED_BY_REMOTE]
        await peer.fence(mux)
    assert protocols(mux) == ["fence"]


@interop()
async def test_the_peer_closes_while_a_pair_callback_waits(peer: Peer) -> None:
    mux = Mux(await peer.stream())

    if peer.opener:
        foo = watch(mux, "foo")
        foo.channel.open()
        foo.send("hello")
        foo.channel.close()
        assert foo.log.items == CLOSED_BY_US
        await peer.fence(mux)
        bar = await peer.meet(mux, "bar")  # takes the number again
        assert await bar.channel.wait_opened() is True
        return

    opened: Inbox[Watched] = Inbox()

    async def offered(_: bytes | None) -> None:
        await peer.fence(mux)  # the close has come by then
        foo = watch(mux, "foo")
        foo.channel.open()
        opened.push(foo)

    mux.pair("foo", callback=offered)
    foo = await opened.next()
    # The original forgets such a close: the channel would open, and stay open for ever.
    assert await foo.log.take(4) == [("open", None), message("hello"), *CLOSED_BY_REMOTE]
    bar = await peer.meet(mux, "bar")
    assert await bar.channel.wait_opened() is True
