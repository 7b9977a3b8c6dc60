"""The wakeup protocol against the original. The Node twins are in cases/wakeup.mjs."""

from __future__ import annotations

from typing import Any

from protomux import Protomux, crypto
from protomux.streams import SecretStream
from protomux_wakeup import Lookup, Session, Stats, Wakeup, WireStats, Writer
from protomux_wakeup import Peer as WakeupPeer

from .harness import NODE_OPENS, SYMMETRIC, interop
from .twin import Inbox, Mux, Peer, protocols

CAPABILITY = b"\1" * 32
OTHER = b"\2" * 32
KEY = b"\3" * 32
HASH = b"\4" * 32
TOPIC = b"\5" * 32

LENGTHS = [0, 1, 0xFC, 0xFD, 0xFFFF, 0x10000, 0xFFFFFFFF, 0x100000000, 2**53 - 1]


def writer(number: int) -> Writer:
    return Writer(number.to_bytes(4, "little").ljust(32, b"\0"), number * 7919)


def hooks(log: Inbox[Any]) -> dict[str, Any]:
    """Return hooks that log: "add", ("lookup", hash), ("announce", writers) and so on."""
    return {
        "on_peer_add": lambda _, __: log.push("add"),
        "on_peer_active": lambda _, __: log.push("active"),
        "on_peer_inactive": lambda _, __: log.push("inactive"),
        "on_peer_remove": lambda _, __: log.push("remove"),
        "on_destroy": lambda _: log.push("destroy"),
        "on_lookup": lambda lookup, _, __: log.push(("lookup", lookup.hash)),
        "on_announce": lambda writers, _, __: log.push(("announce", writers)),
    }


class Meeting:
    """One topic on one stream: its `Wakeup`, session and log."""

    def __init__(self, log: Inbox[Any]) -> None:
        self.log = log
        self.w: Wakeup
        self.session: Session


async def meet(
    peer: Peer, stream: SecretStream, capability: bytes = CAPABILITY, **options: Any
) -> Meeting:
    """Return one topic on one stream.

    The opener has a session beforehand, the other side makes one in on_wakeup, so that it is
    opened to.
    """
    met = Meeting(Inbox())
    made: Inbox[bytes] = Inbox()

    def make_session() -> None:
        met.session = met.w.session(capability, **hooks(met.log), **options)

    def on_wakeup(id: bytes, _: Protomux) -> None:
        make_session()
        made.push(id)

    if peer.opener:
        met.w = Wakeup()
        make_session()
        met.w.add_stream(stream)
    else:
        met.w = Wakeup(on_wakeup)
        met.w.add_stream(stream)
        topic = options.get("discovery_key") or crypto.discovery_key(capability)
        assert await made.next() == topic
    return met


@interop()
async def test_lookup_and_announce(peer: Peer) -> None:
    stream = await peer.stream()
    met = await meet(peer, stream)
    w, session, log = met.w, met.session, met.log
    assert await log.take(2) == ["add", "active"]
    (there,) = session.peers

    if peer.opener:
        assert session.lookup(there) is True
        session.lookup(there, HASH)
        session.lookup_by_stream(stream)
        session.broadcast_lookup(HASH)
        assert await log.take(4) == [("announce", [Writer(KEY, number)]) for number in range(4)]
    else:
        for number, hash in enumerate((None, HASH, None, HASH)):
            assert await log.next() == ("lookup", hash)
            if number % 2:
                assert session.announce(there, [(KEY, number)]) is True
            else:
                session.announce_by_stream(stream, [Writer(KEY, number)])
    await peer.sync("done")
    mine, theirs = (4, 0) if peer.opener else (0, 4)
    assert w.stats == Stats(
        sessions_opened=1,
        topics_added=1,
        peers_added=1,
        wire_announce=WireStats(rx=mine, tx=theirs),
        wire_lookup=WireStats(rx=theirs, tx=mine),
    )
    assert w.has_stream(stream)
    assert w.has_stream(stream, CAPABILITY)
    assert not w.has_stream(stream, OTHER)
    assert session.get_peer(stream) is there
    assert there.remote_public_key == stream.remote_public_key


@interop()
async def test_announces_of_every_size(peer: Peer) -> None:
    met = await meet(peer, await peer.stream())
    assert await met.log.take(2) == ["add", "active"]

    for announces in (peer.opener, not peer.opener):
        for count in (0, 1, 1000, 100_000):
            writers = [writer(number) for number in range(count)]
            if announces:
                met.session.announce(met.session.peers[0], writers)
            else:
                assert await met.log.next() == ("announce", writers)


@interop()
async def test_announced_lengths_at_every_boundary(peer: Peer) -> None:
    met = await meet(peer, await peer.stream())
    assert await met.log.take(2) == ["add", "active"]

    writers = [Writer(KEY, length) for length in LENGTHS]
    met.session.announce(met.session.peers[0], writers)
    assert await met.log.next() == ("announce", writers)


@interop()
async def test_active_and_inactive(peer: Peer) -> None:
    met = await meet(peer, await peer.stream())
    session, log = met.session, met.log
    assert await log.take(2) == ["add", "active"]
    (there,) = session.peers

    for turn, moves in enumerate((peer.opener, not peer.opener)):
        if moves:
            session.inactive()
            session.inactive()  # not told again
            session.lookup(there)  # still works
            await peer.hear(f"seen {turn}")
            session.active()
            assert session.is_active
        else:
            assert await log.take(2) == ["inactive", ("lookup", None)]
            assert there.is_active is False
            peer.tell(f"seen {turn}")
            assert await log.next() == "active"
            assert there.is_active is True
    await peer.sync("done")
    assert met.w.stats.wire_info == WireStats(rx=2, tx=2)


@interop()
async def test_two_sessions_on_one_topic(peer: Peer) -> None:
    met = await meet(peer, await peer.stream())
    w, first, log = met.w, met.session, met.log
    log2: Inbox[Any] = Inbox()
    assert await log.take(2) == ["add", "active"]
    second = w.session(CAPABILITY, **hooks(log2))
    await peer.sync("two sessions")
    assert second.topic is first.topic
    assert w.get_sessions(CAPABILITY) == (first, second)
    assert second.peers == first.peers

    (there,) = second.peers
    if peer.opener:
        first.inactive()  # the topic is still active
        second.lookup(there, HASH)
        second.inactive()
        first.active()
        second.destroy()
        first.lookup(there)
    else:
        events = [("lookup", HASH), "inactive", "active", ("lookup", None)]
        assert await log.take(4) == events
        assert log2.items == events
        second.destroy()
        first.lookup(there)
    await peer.sync("moved")
    if peer.opener:
        assert await log.next() == ("lookup", None)
    assert w.get_sessions(CAPABILITY) == (first,)


@interop(ways=SYMMETRIC)
async def test_both_sides_have_a_session(peer: Peer) -> None:
    stream = await peer.stream()
    mux = Mux(stream)
    w = Wakeup()
    log: Inbox[Any] = Inbox()
    session = w.session(CAPABILITY, **hooks(log))
    w.add_stream(stream)  # opens are under way in both directions

    session.broadcast_lookup()
    assert await log.take(3) == ["add", "active", ("lookup", None)]
    await peer.fence(mux)
    assert log.items == []
    assert protocols(mux) == ["wakeup", "fence"]
    assert w.stats.peers_added == 1


@interop()
async def test_a_topic_under_a_custom_discovery_key(peer: Peer) -> None:
    met = await meet(peer, await peer.stream(), b"any bytes", discovery_key=TOPIC)
    assert await met.log.take(2) == ["add", "active"]
    assert met.session.topic.id == TOPIC
    assert list(met.w.topics) == [TOPIC]
    met.session.lookup(met.session.peers[0])
    assert await met.log.next() == ("lookup", None)


@interop()
async def test_a_wrong_capability(peer: Peer) -> None:
    stream = await peer.stream()
    mux = Mux(stream)
    capability = CAPABILITY if peer.initiator else OTHER
    met = await meet(peer, stream, capability, discovery_key=TOPIC)
    await peer.fence(mux)
    await peer.fence(mux)  # also what was sent in answer
    assert met.log.items == []
    assert met.session.peers == ()
    assert not met.w.has_stream(stream, b"\0", discovery_key=TOPIC)
    assert met.w.stats == Stats(sessions_opened=1, topics_added=1)


@interop(ways=NODE_OPENS, when=["sync", "async"])
async def test_messages_of_an_unproven_peer(peer: Peer) -> None:
    # The Node side has the wrong capability, and its messages are here before any session. The
    # original would hand them to its hooks; here they reach nobody, and nothing counts them.
    stream = await peer.stream()
    mux = Mux(stream)
    log: Inbox[Any] = Inbox()
    made: Inbox[Session] = Inbox()

    def make(_: bytes, __: Protomux) -> None:
        made.push(w.session(CAPABILITY, discovery_key=TOPIC, **hooks(log)))

    async def make_later(id: bytes, mux: Protomux) -> None:
        await peer.hear("sent")
        make(id, mux)

    w = Wakeup(make if peer.options["when"] == "sync" else make_later)
    w.add_stream(stream)
    session = await made.next()
    events = session.events()
    await peer.fence(mux)
    assert log.items == []
    assert session.peers == ()
    assert w.stats == Stats(sessions_opened=1, topics_added=1)
    session.destroy()
    assert [event async for event in events] == []
    assert log.items == ["destroy"]
    peer.tell("stats", "untouched")


@interop(when=["sync", "async"])
async def test_a_session_made_in_on_wakeup(peer: Peer) -> None:
    stream = await peer.stream()

    if peer.opener:
        met = await meet(peer, stream)
        met.session.broadcast_lookup(HASH)  # to the pending peer, behind the open
        peer.tell("sent")
        assert await met.log.take(3) == ["add", "active", ("announce", [Writer(KEY, 1)])]
        return

    log: Inbox[Any] = Inbox()
    made: Inbox[tuple[bytes, Session]] = Inbox()

    def make(id: bytes, _: Protomux) -> None:
        made.push((id, w.session(CAPABILITY, **hooks(log))))

    async def make_later(id: bytes, mux: Protomux) -> None:
        await peer.hear("sent")
        make(id, mux)

    w = Wakeup(make if peer.options["when"] == "sync" else make_later)
    w.add_stream(stream)
    id, session = await made.next()
    assert id == crypto.discovery_key(CAPABILITY)
    assert await log.take(3) == ["add", "active", ("lookup", HASH)]
    session.announce(session.peers[0], [(KEY, 1)])


@interop()
async def test_on_wakeup_declines(peer: Peer) -> None:
    stream = await peer.stream()
    mux = Mux(stream)
    log: Inbox[Any] = Inbox()
    asked: list[tuple[bytes, Protomux]] = []
    w = Wakeup(lambda *asks: asked.append(asks))
    w.add_stream(stream)

    if peer.opener:
        session = w.session(CAPABILITY, **hooks(log))
        session.broadcast_lookup()
        assert w.has_stream(stream, CAPABILITY)
        await peer.fence(mux)
        await peer.fence(mux)  # the rejection
        assert not w.has_stream(stream, CAPABILITY)
        assert (session.peers, log.items, asked) == ((), [], [])
    else:
        await peer.fence(mux)
        await peer.fence(mux)
        assert asked == [(crypto.discovery_key(CAPABILITY), mux)]
        assert not w.topics
    assert w.has_stream(stream)


@interop()
async def test_an_inactive_topic_answers_but_does_not_open(peer: Peer) -> None:
    stream = await peer.stream()
    mux = Mux(stream)
    w = Wakeup()
    log: Inbox[Any] = Inbox()
    session = w.session(CAPABILITY, active=False, **hooks(log))
    w.add_stream(stream)
    await peer.fence(mux)
    await peer.fence(mux)
    assert protocols(mux) == ["fence", "fence"]
    await peer.sync("none has opened")

    if peer.opener:
        session.active()
        assert await log.take(2) == ["add", "active"]
    else:
        assert await log.take(2) == ["add", "active"]
        session.active()
    assert session.peers[0].is_active


@interop()
async def test_a_stream_is_lost_and_another_comes(peer: Peer) -> None:
    w = Wakeup()
    log: Inbox[Any] = Inbox()
    session = w.session(CAPABILITY, **hooks(log))

    for how in ("destroyed", "cut", "ended", "stays"):
        stream = await peer.stream()
        w.add_stream(stream)
        assert await log.take(2) == ["add", "active"]
        (there,) = session.peers
        session.lookup(there)
        assert await log.next() == ("lookup", None)
        await peer.sync("asked")
        if how == "stays":
            break

        if peer.opener:
            session.announce(there, map(writer, range(1000)))  # may or may not arrive
            if how == "destroyed":
                stream.abort(RuntimeError("on purpose"))
            elif how == "cut":
                assert stream.transport is not None
                stream.transport.abort()
            else:
                stream.close()
        await stream.wait_closed()
        assert [event for event in log.items if event[0] != "announce"] == ["inactive", "remove"]
        log.items.clear()
        assert session.peers == ()
        assert session.get_peer(stream) is None
        assert not w.has_stream(stream)
        assert there.is_removed
        assert session.lookup(there) is False
        await peer.sync("lost")
    assert (w.stats.peers_added, w.stats.peers_removed) == (4, 3)


@interop()
async def test_two_hundred_topics_on_one_stream(peer: Peer) -> None:
    count = 200
    capabilities = [bytes([number]) * 32 for number in range(count)]
    numbers = {crypto.discovery_key(each): number for number, each in enumerate(capabilities)}
    stream = await peer.stream()
    done: Inbox[tuple[int, Any]] = Inbox()

    def number_of(session: Session) -> int:
        return numbers[session.topic.id]

    if peer.opener:

        def on_peer_add(there: WakeupPeer, session: Session) -> None:
            session.announce(there, [(KEY, number_of(session))])

        def on_lookup(lookup: Lookup, _: WakeupPeer, session: Session) -> None:
            done.push((number_of(session), lookup.hash))

        w = Wakeup()
        for each in capabilities:
            w.session(each, on_peer_add=on_peer_add, on_lookup=on_lookup)
        w.add_stream(stream)
        assert sorted(await done.take(count)) == [(number, HASH) for number in range(count)]
        assert w.stats.peers_added == count
        return

    def on_announce(writers: list[Writer], there: WakeupPeer, session: Session) -> None:
        done.push((number_of(session), writers[0].length))
        session.lookup(there, HASH)

    def on_wakeup(id: bytes, _: Protomux) -> None:
        w.session(capabilities[numbers[id]], on_announce=on_announce)

    w = Wakeup(on_wakeup)
    w.add_stream(stream)
    assert sorted(await done.take(count)) == [(number, number) for number in range(count)]
    assert len(w.topics) == count


@interop()
async def test_a_hundred_streams_on_one_topic(peer: Peer) -> None:
    count = 100
    log: Inbox[Any] = Inbox()
    w = Wakeup()
    session = w.session(
        CAPABILITY,
        on_peer_add=lambda _, __: log.push("add"),
        on_lookup=lambda _, there, session: session.announce(there, [(KEY, 1)]),
        on_announce=lambda writers, _, __: log.push(writers[0].key),
        on_peer_remove=lambda _, __: log.push("remove"),
    )
    streams = []
    for _ in range(count):
        streams.append(await peer.stream())
        w.add_stream(streams[-1])
    assert await log.take(count) == ["add"] * count
    assert len(session.peers) == count
    assert {there.stream for there in session.peers} == set(streams)

    await peer.sync("all there")
    if peer.opener:
        session.broadcast_lookup()
        assert await log.take(count) == [KEY] * count
        for stream in streams[:50]:
            stream.abort()
    assert await log.take(50) == ["remove"] * 50
    assert len(session.peers) == 50


@interop()
async def test_an_idle_topic_is_collected(peer: Peer) -> None:
    stream = await peer.stream()
    w = Wakeup(gc_interval=0.01)
    log: Inbox[Any] = Inbox()
    session = w.session(CAPABILITY, **hooks(log))
    w.add_stream(stream)
    assert await log.take(2) == ["add", "active"]
    await peer.sync("met")

    if peer.opener:
        session.destroy()
        await peer.hear("still there")
        assert len(w.topics) == 1  # kept as long as a peer is active
        peer.tell("looked")
        await peer.hear("removed")
        assert not w.topics
        assert (w.stats.topics_gcd, w.stats.sessions_closed) == (1, 1)
        assert log.items == ["destroy"]
    else:
        assert await log.next() == "inactive"
        peer.tell("still there")
        await peer.hear("looked")
        session.inactive()
        assert await log.next() == "remove"
        peer.tell("removed")
        assert len(w.topics) == 1


@interop()
async def test_a_wakeup_is_destroyed(peer: Peer) -> None:
    stream = await peer.stream()
    mux = Mux(stream)
    met = await meet(peer, stream)
    assert await met.log.take(2) == ["add", "active"]
    await peer.sync("met")

    if peer.opener:
        met.w.destroy()
        assert met.log.items == ["inactive", "remove", "destroy"]
        assert not met.w.topics
        assert met.session.is_destroyed
    else:
        assert await met.log.take(2) == ["inactive", "remove"]
        assert met.session.peers == ()
    await peer.fence(mux)  # the stream lives


@interop(ways=SYMMETRIC)
async def test_a_stream_is_added_before_it_is_open(peer: Peer) -> None:
    stream = await peer.dial()
    w = Wakeup()
    log: Inbox[Any] = Inbox()
    session = w.session(CAPABILITY, **hooks(log))
    w.add_stream(stream)
    assert await log.take(2) == ["add", "active"]
    assert session.peers[0].stream is stream
