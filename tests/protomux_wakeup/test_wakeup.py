"""Wakeup, its sessions and its peers, over memory streams or with a raw peer."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Callable
from typing import Any

import pytest

from protomux import EncodingError, LimitExceeded, Protomux, StreamClosed
from protomux.encoding import fixed32, string
from protomux.streams import FrameReceiver, SecretStream, memory_pair
from protomux.streams.memory import MemoryStream
from protomux_wakeup import (
    Announced,
    Event,
    Limits,
    LookedUp,
    Lookup,
    Peer,
    PeerActive,
    PeerAdded,
    PeerInactive,
    PeerRemoved,
    Session,
    Stats,
    Wakeup,
    WireStats,
    Writer,
)
from protomux_wakeup.capability import Capability
from tests.protomux.streams.secret_pair import secret_pair
from tests.protomux_wakeup.raw_wakeup import CAPABILITY, ID, KEY, with_raw
from tests.raw_peer import RawPeer
from tests.ticking import ticks, until


class Log(list[tuple[Any, ...]]):
    """Collects what hooks are told, but for the session itself."""

    def hooks(self, *names: str) -> dict[str, Any]:
        def note(name: str) -> Callable[..., None]:
            return lambda *args: self.append((name, *args[:-1]))

        kinds = ("peer_add", "peer_remove", "peer_active", "peer_inactive")
        return {
            f"on_{kind}": note(kind) for kind in names or (*kinds, "announce", "lookup", "destroy")
        }

    @property
    def names(self) -> list[str]:
        return [entry[0] for entry in self]


def pair(**options: Any) -> tuple[Wakeup, Wakeup, MemoryStream, MemoryStream]:
    a, b = memory_pair()
    one, two = Wakeup(**options), Wakeup(**options)
    one.add_stream(a)
    two.add_stream(b)
    return one, two, a, b


# Peers


async def test_peers_meet_ask_tell_and_leave() -> None:
    one, two, a, b = pair()
    log = Log()
    s1 = one.session(CAPABILITY, **log.hooks())
    s2 = two.session(CAPABILITY)
    await ticks()
    (peer,) = s1.peers
    assert log == [("peer_add", peer), ("peer_active", peer)]
    assert peer.stream is a
    assert peer.topic is s1.topic
    assert peer.is_active
    assert not peer.is_pending
    assert peer.remote_public_key == a.remote_public_key
    assert (peer.user_data, peer.clock) == (None, 0)
    assert s1.get_peer(a) is peer
    assert s1.get_peer(Protomux.of(a)) is peer
    assert s1.has_stream(a)
    assert not s1.has_stream(b)
    (other,) = s2.peers
    log.clear()

    assert s2.lookup(other, KEY)
    assert s2.lookup(other)
    assert s2.announce(other, [(KEY, 5), Writer(KEY, 6)])
    s2.inactive()
    s2.active()
    await ticks()
    s2.destroy()
    await ticks()
    assert log == [
        ("lookup", Lookup(KEY), peer),
        ("lookup", Lookup(None), peer),
        ("announce", [Writer(KEY, 5), Writer(KEY, 6)], peer),
        ("peer_inactive", peer),
        ("peer_active", peer),
        ("peer_inactive", peer),
    ]
    log.clear()
    b.close()
    await a.wait_closed()
    assert log == [("peer_remove", peer)]
    assert peer.is_removed
    assert s1.peers == ()
    assert s1.get_peer(a) is None
    assert not one.has_stream(a)


async def test_an_active_peer_that_goes_is_inactive_first() -> None:
    one, two, a, _ = pair()
    log = Log()
    one.session(CAPABILITY, **log.hooks())
    two.session(CAPABILITY)
    await ticks()
    a.abort()
    await ticks()
    assert log.names == ["peer_add", "peer_active", "peer_inactive", "peer_remove"]


async def test_lookups_and_announces_by_stream_and_to_all() -> None:
    wakeup = Wakeup()
    log = Log()
    others = []
    streams = []
    for _ in range(3):
        a, b = memory_pair()
        wakeup.add_stream(a)
        streams.append(a)
        others.append(Wakeup())
        others[-1].add_stream(b)
        others[-1].session(CAPABILITY, **log.hooks("lookup", "announce"))
    session = wakeup.session(CAPABILITY)
    assert len(session.topic.pending_peers) == 3
    session.broadcast_lookup(KEY)  # also to those that have not proved themselves yet
    session.broadcast_announce([(KEY, 1)])  # not to those
    assert session.announce_by_stream(streams[0], [(KEY, 1)]) is False
    await ticks()
    assert log.names == ["lookup"] * 3
    log.clear()
    session.broadcast_announce(iter([(KEY, 2)]))
    assert session.announce_by_stream(streams[1], [(KEY, 3)])
    assert session.lookup_by_stream(Protomux.of(streams[2]))
    stranger, _ = memory_pair()
    assert session.lookup_by_stream(stranger) is False
    assert session.announce_by_stream(stranger, []) is False
    await ticks()
    assert sorted(entry[1] for entry in log if entry[0] == "announce") == [
        [Writer(KEY, 2)],
        [Writer(KEY, 2)],
        [Writer(KEY, 2)],
        [Writer(KEY, 3)],
    ]
    assert log.names.count("lookup") == 1


async def test_what_cannot_be_sent_raises_and_is_not_counted() -> None:
    one, two, _, _ = pair()
    session = one.session(CAPABILITY)
    two.session(CAPABILITY)
    await ticks()
    (peer,) = session.peers
    for writers in ([(KEY[1:], 1)], [(KEY, -1)], [(KEY,)], [5], [(KEY, 1, 2)]):
        with pytest.raises(EncodingError):
            session.announce(peer, writers)  # type: ignore[arg-type]
    with pytest.raises(EncodingError, match="expected 32 bytes, got 5"):
        session.lookup(peer, b"short")
    assert one.stats.wire_announce.tx == one.stats.wire_lookup.tx == 0


async def test_nothing_is_sent_to_a_peer_that_is_gone_or_from_a_session_that_is() -> None:
    one, two, a, _ = pair()
    session = one.session(CAPABILITY)
    two.session(CAPABILITY)
    await ticks()
    (peer,) = session.peers
    a.abort()
    await ticks()
    assert session.lookup(peer) is False
    assert session.announce(peer, [(KEY, 1)]) is False
    session.destroy()
    session.destroy()
    session.active()
    assert session.lookup(peer) is False
    stranger, _ = memory_pair()
    session.add_stream(stranger)
    assert stranger.receiver is None
    assert one.stats.wire_lookup.tx == 0
    assert repr(session) == f"<Session {ID.hex()[:16]} destroyed>"


async def test_stats_count_what_happened() -> None:
    one, two, a, _ = pair()
    session = one.session(CAPABILITY)
    other = two.session(CAPABILITY)
    assert one.stats == Stats(sessions_opened=1, topics_added=1)  # the peer is not proven
    await ticks()
    session.broadcast_lookup()
    session.broadcast_announce([])
    other.broadcast_lookup()
    other.inactive()
    await ticks()
    session.destroy()
    a.abort()
    await ticks()
    one.destroy()
    assert one.stats == Stats(
        sessions_opened=1,
        sessions_closed=1,
        topics_added=1,
        topics_gcd=1,
        peers_added=1,
        peers_removed=1,
        wire_announce=WireStats(0, 1),
        wire_lookup=WireStats(1, 1),
        wire_info=WireStats(1, 1),
    )


# Proof


@pytest.mark.parametrize("order", ["session first", "open first", "in on_wakeup", "async"])
async def test_an_unproven_peer_reaches_no_hook_and_no_counter(order: str) -> None:
    log = Log()
    sessions: list[Session] = []

    def make(*_args: object) -> None:
        sessions.append(wakeup.session(CAPABILITY, **log.hooks()))

    async def make_later(*_args: object) -> None:
        await ticks()
        make()

    on_wakeup = {"in on_wakeup": make, "async": make_later}.get(order)
    wakeup = Wakeup(on_wakeup)
    if order == "session first":
        make()
    stream, peer = with_raw(wakeup)
    peer.open_topic(1, proof=bytes(32))
    peer.announce(1, Writer(KEY, 1))
    peer.lookup(1)
    peer.message(1, 2, b"\x01")
    if order == "open first":
        # The session is made after the open has come, before the tick is over.
        mux = Protomux.of(stream)

        def pair_by_hand(_id: bytes | None) -> None:
            make()
            sessions[0].add_stream(stream)

        mux.pair("wakeup", callback=pair_by_hand)
    await ticks(30)
    assert log == []
    assert wakeup.stats == Stats(sessions_opened=1, topics_added=1)
    assert [session.peers for session in sessions] == [()]
    assert sessions[0].topic.pending_peers == ()
    closes = [body for body in peer.bodies() if body == (0, b"\x03\x01")]
    assert len(closes) == 1
    assert not peer.is_lost


@pytest.mark.parametrize("which", ["own role", "other stream", "other capability"])
async def test_proofs_of_another_role_stream_or_capability_are_wrong(which: str) -> None:
    wakeup = Wakeup()
    log = Log()
    wakeup.session(CAPABILITY, **log.hooks())
    stream, peer = with_raw(wakeup)
    assert stream.handshake_hash is not None
    proof = {
        "own role": Capability(CAPABILITY).prove(True, stream.handshake_hash),
        "other stream": Capability(CAPABILITY).prove(False, os.urandom(64)),
        "other capability": Capability(b"\x02" * 32).prove(False, stream.handshake_hash),
    }[which]
    peer.open_topic(1, proof=proof)
    await ticks()
    assert log == []


async def test_messages_right_behind_a_proof_are_delivered() -> None:
    log = Log()
    wakeup = Wakeup(lambda _id, _mux: wakeup.session(CAPABILITY, **log.hooks()))
    _, peer = with_raw(wakeup)
    peer.open_topic(1, active=False)
    peer.announce(1, Writer(KEY, 1))
    peer.lookup(1)
    await ticks()
    assert log.names == ["peer_add", "announce", "lookup"]


async def test_our_own_proof_is_that_of_our_role() -> None:
    wakeup = Wakeup()
    wakeup.session(CAPABILITY, active=False)
    stream, peer = with_raw(wakeup)
    assert stream.handshake_hash is not None
    assert peer.frames == []  # inactive topics open no channel on a stream that is added
    wakeup.get_sessions(CAPABILITY)[0].active()
    (frame,) = await peer.wait_frames(1)
    proof = Capability(CAPABILITY).prove(True, stream.handshake_hash)
    name = string.encode("wakeup") + b"\x20" + ID
    assert frame == b"\x00\x01\x01" + name + b"\x00" + fixed32.encode(proof) + b"\x01"


# Topics and sessions


async def test_sessions_of_one_capability_share_a_topic() -> None:
    one, two, _, _ = pair()
    log = Log()
    s1 = one.session(CAPABILITY, **log.hooks())
    s2 = one.session(CAPABILITY, **log.hooks())
    assert s1.topic is s2.topic
    assert one.get_sessions(CAPABILITY) == (s1, s2)
    assert dict(one.topics) == {ID: s1.topic}
    assert s1.topic.capability.id == ID
    assert one.get_sessions(b"\x02" * 32) == ()
    other = two.session(CAPABILITY)
    await ticks()
    assert log.names == ["peer_add", "peer_active", "peer_add", "peer_active"]
    other.broadcast_announce([(KEY, 1)])
    await ticks()
    assert log.names[4:] == ["announce", "announce"]


async def test_a_topic_is_active_while_any_session_is() -> None:
    one, two, _, _ = pair()
    log = Log()
    two.session(CAPABILITY, **log.hooks("peer_active", "peer_inactive"))
    s1, s2 = one.session(CAPABILITY), one.session(CAPABILITY, active=False)
    await ticks()
    assert (s1.is_active, s2.is_active) == (True, False)
    s2.active()
    s1.inactive()
    assert s1.topic.is_active
    s2.inactive()
    assert not s1.topic.is_active
    s1.active()
    s1.destroy()
    await ticks()
    assert log.names == ["peer_active", "peer_inactive", "peer_active", "peer_inactive"]


async def test_an_inactive_topic_answers_but_does_not_ask() -> None:
    one, two, a, _ = pair()
    quiet = one.session(CAPABILITY, active=False)
    stranger, other_end = memory_pair()
    one.add_stream(stranger)
    raw = RawPeer(other_end)
    await ticks()
    assert raw.frames == []
    two.session(CAPABILITY)
    await ticks()
    (peer,) = quiet.peers
    assert peer.stream is a
    assert peer.is_active
    (other,) = two.get_sessions(CAPABILITY)[0].peers
    assert not other.is_active
    quiet.active()
    await ticks()
    assert other.is_active
    assert len(raw.frames) == 1  # now it asks


async def test_a_custom_discovery_key_names_the_topic() -> None:
    one, two, a, _ = pair()
    name = b"\x07" * 32
    log = Log()
    session = one.session(b"any secret", discovery_key=name, **log.hooks())
    two.session(b"any secret", discovery_key=name)
    await ticks()
    assert session.topic.id == name
    assert len(session.peers) == 1
    assert one.has_stream(a, b"any secret", discovery_key=name)
    assert one.get_sessions(b"any secret", discovery_key=name) == (session,)
    with pytest.raises(ValueError, match="expected the capability that the topic 0707"):
        one.session(b"another secret", discovery_key=name)


async def test_has_stream_tells_of_streams_and_of_peers() -> None:
    one, two, a, b = pair()
    assert one.has_stream(a)
    assert one.has_stream(Protomux.of(a))
    assert not one.has_stream(b)
    assert not one.has_stream(memory_pair()[0])
    assert not one.has_stream(a, CAPABILITY)
    one.session(CAPABILITY)
    two.session(CAPABILITY)
    assert one.has_stream(a, CAPABILITY)
    assert not one.has_stream(b, CAPABILITY)


async def test_handlers_are_objects_or_keywords() -> None:
    one, two, _, _ = pair()
    log: list[str] = []

    class Handler:
        on_destroy = None

        def on_peer_add(self, peer: Peer, session: Session) -> None:
            log.append("object added")

        def on_peer_active(self, peer: Peer, session: Session) -> None:
            log.append("object active")

    session = one.session(
        CAPABILITY,
        Handler(),
        on_peer_active=lambda _peer, _session: log.append("keyword active"),
        on_lookup=None,
    )
    two.session(CAPABILITY)
    await ticks()
    assert log == ["object added", "keyword active"]
    session.destroy()
    with pytest.raises(TypeError, match=r"expected a hook of on_peer_add, .*, got 'on_peeradd'"):
        one.session(CAPABILITY, on_peeradd=print)
    with pytest.raises(TypeError, match="expected on_lookup to be callable, got 5"):
        one.session(CAPABILITY, on_lookup=5)  # type: ignore[arg-type]


async def test_a_session_is_a_context_manager() -> None:
    wakeup = Wakeup()
    log = Log()
    with wakeup.session(CAPABILITY, **log.hooks()) as session:
        assert not session.is_destroyed
    assert session.is_destroyed
    async with wakeup.session(CAPABILITY, **log.hooks()) as session:
        assert repr(session) == f"<Session {ID.hex()[:16]} active>"
    assert session.is_destroyed
    assert log == [("destroy",), ("destroy",)]


async def test_add_stream_of_a_session_opens_that_topic_only() -> None:
    one, two = Wakeup(), Wakeup()
    a, b = memory_pair()
    session = one.session(CAPABILITY, active=False)
    one.session(b"\x02" * 32)
    two.add_stream(b)
    other = two.session(CAPABILITY, active=False)
    session.add_stream(a)
    await ticks()
    assert len(session.peers) == 1
    assert len(other.peers) == 1
    assert not one.has_stream(a)
    session.add_stream(a)
    await ticks()
    assert len(session.peers) == 1


# Streams


async def test_a_stream_that_is_not_open_is_added_when_it_opens() -> None:
    one, two = Wakeup(), Wakeup()
    session, other = one.session(CAPABILITY), two.session(CAPABILITY)
    a, b = await secret_pair()
    one.add_stream(a)
    two.add_stream(Protomux(b))
    assert not one.has_stream(a)
    async with asyncio.timeout(5):
        async for event in session.events():
            assert isinstance(event, PeerAdded)
            break
        await until(lambda: other.peers)
    assert one.has_stream(a)
    a.close()
    await a.wait_closed()
    await b.wait_closed()


async def test_a_stream_that_never_opens_is_nobodys_error() -> None:
    wakeup = Wakeup()
    stream = SecretStream(True)
    wakeup.add_stream(stream)
    await ticks()
    assert len(wakeup._opening) == 1
    stream.abort()
    await ticks()
    assert not wakeup._opening
    assert not wakeup.has_stream(stream)


async def test_a_stream_aborted_by_the_application_before_it_opens_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wakeup = Wakeup()
    stream = SecretStream(True)
    wakeup.add_stream(stream)
    await ticks()
    stream.abort(ValueError("of the application"))
    await ticks()
    assert "was not added" in caplog.text


async def test_a_session_waits_for_its_stream_to_open() -> None:
    one, two = Wakeup(), Wakeup()
    session, other = one.session(CAPABILITY, active=False), two.session(CAPABILITY)
    a, b = await secret_pair()
    session.add_stream(a)
    two.add_stream(b)
    await until(lambda: session.peers and other.peers)
    a.abort()
    await a.wait_closed()
    await b.wait_closed()


async def test_two_wakeups_of_one_mux_do_not_take_each_others_callback() -> None:
    a, b = memory_pair()
    first, second, other = Wakeup(), Wakeup(), Wakeup()
    first.add_stream(a)
    second.add_stream(a)
    other.add_stream(b)
    first.destroy()
    session = second.session(CAPABILITY, active=False)
    other.session(CAPABILITY)
    await ticks()
    assert len(session.peers) == 1
    assert len(Protomux.of(a)._close_callbacks) == 1


async def test_a_peer_is_as_it_was_told() -> None:
    one, two, a, _ = pair()
    seen: list[tuple[str, bool, bool]] = []

    def note(name: str) -> Callable[[Peer, Session], None]:
        return lambda peer, session: seen.append((name, peer.is_active, peer in session.peers))

    one.session(CAPABILITY, on_peer_add=note("peer_add"), on_peer_inactive=note("peer_inactive"))
    two.session(CAPABILITY)
    await ticks()
    a.abort()
    await ticks()
    assert seen == [("peer_add", True, True), ("peer_inactive", False, False)]


def test_sessions_can_come_and_go_without_a_loop() -> None:
    log = Log()
    wakeup = Wakeup()
    wakeup.session(CAPABILITY, **log.hooks()).destroy()
    assert log == [("destroy",)]
    wakeup.destroy()


async def test_a_peer_that_comes_and_goes_for_ever_is_bounded() -> None:
    one = Wakeup(limits=Limits(queued_events=10))
    session = one.session(CAPABILITY)
    session.events()
    events = session.events()
    stream, peer = with_raw(one)
    await peer.wait_frames(1)
    for _ in range(20):
        if peer.is_lost:
            break
        peer.open_topic(1)
        await ticks()
        peer.close(1)
        session.add_stream(stream)
        await ticks()
    await peer.wait_lost()
    assert isinstance(stream.error, LimitExceeded)
    assert len(events._events) < 20


async def test_a_stream_that_cannot_be_waited_for_is_refused() -> None:
    class Bare:
        is_initiator = True
        handshake_hash = None
        receiver: FrameReceiver | None = None

    with pytest.raises(TypeError, match="open or has wait_opened"):
        Wakeup().add_stream(Bare())  # type: ignore[arg-type]


async def test_adding_a_stream_twice_or_lost_is_harmless() -> None:
    one, two, a, _ = pair()
    session = one.session(CAPABILITY)
    two.session(CAPABILITY)
    one.add_stream(a)
    await ticks()
    one.add_stream(Protomux.of(a))
    assert len(session.peers) == 1
    a.abort()
    await ticks()
    one.add_stream(a)
    await ticks()
    assert not one.has_stream(a)
    assert repr(one) == "<Wakeup 1 topics 0 streams>"


async def test_a_new_stream_gets_the_topics_that_are_there() -> None:
    one, two = Wakeup(), Wakeup()
    sessions = [one.session(bytes([number]) * 32) for number in range(20)]
    for number in range(20):
        two.session(bytes([number]) * 32)
    for _ in range(3):
        a, b = memory_pair()
        one.add_stream(a)
        two.add_stream(b)
    await ticks(20)
    assert [len(session.peers) for session in sessions] == [3] * 20


# on_wakeup


@pytest.mark.parametrize("is_async", [False, True])
async def test_on_wakeup_may_make_the_session(is_async: bool) -> None:
    calls: list[tuple[bytes, Protomux]] = []
    log = Log()

    def on_wakeup(id: bytes, mux: Protomux) -> None:
        calls.append((id, mux))
        one.session(CAPABILITY, **log.hooks())

    async def on_wakeup_later(id: bytes, mux: Protomux) -> None:
        await asyncio.sleep(0)
        on_wakeup(id, mux)

    one = Wakeup(on_wakeup_later if is_async else on_wakeup)
    two = Wakeup()
    a, b = memory_pair()
    one.add_stream(a)
    two.add_stream(b)
    other = two.session(CAPABILITY)
    await ticks()
    assert calls == [(ID, Protomux.of(a))]
    assert log.names == ["peer_add", "peer_active"]
    assert len(other.peers) == 1


@pytest.mark.parametrize("is_async", [False, True])
async def test_on_wakeup_may_make_an_inactive_session_of_an_old_topic(is_async: bool) -> None:
    def on_wakeup(_id: bytes, _mux: Protomux) -> None:
        one.session(CAPABILITY, active=False)

    async def on_wakeup_later(id: bytes, mux: Protomux) -> None:
        on_wakeup(id, mux)

    one = Wakeup(on_wakeup_later if is_async else on_wakeup)
    one.session(CAPABILITY).destroy()  # the topic lives on for a while
    assert len(one.topics) == 1
    two = Wakeup()
    a, b = memory_pair()
    one.add_stream(a)
    two.add_stream(b)
    other = two.session(CAPABILITY)
    await ticks()
    assert len(other.peers) == 1
    assert not other.peers[0].is_active
    one.destroy()


async def test_a_topic_that_nobody_takes_is_rejected() -> None:
    calls: list[bytes] = []
    one = Wakeup(lambda id, _mux: calls.append(id))
    stream, peer = with_raw(one)
    peer.open_topic(1)
    await ticks()
    assert peer.bodies() == [(0, b"\x02\x01")]
    assert calls == [ID]
    peer.open(1, "wakeup", None)  # no id, no topic
    await ticks()
    assert peer.bodies() == [(0, b"\x02\x01")]
    assert calls == [ID]
    assert stream.error is None


async def test_an_on_wakeup_that_raises_destroys_the_stream() -> None:
    error = OSError("no disk")

    def on_wakeup(_id: bytes, _mux: Protomux) -> None:
        raise error

    stream, peer = with_raw(Wakeup(on_wakeup))
    peer.open_topic(1)
    await peer.wait_lost()
    assert stream.error is error


# Hooks


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_hook_that_raises_destroys_the_stream_but_all_sessions_are_told(
    is_async: bool,
) -> None:
    one, two, a, _ = pair()
    error = ValueError("of the application")
    log = Log()

    def fail(*_args: object) -> None:
        raise error

    async def fail_later(*_args: object) -> None:
        raise error

    one.session(CAPABILITY, on_announce=fail_later if is_async else fail)
    one.session(CAPABILITY, **log.hooks("announce", "peer_remove"))
    other = two.session(CAPABILITY)
    await ticks()
    other.broadcast_announce([(KEY, 1)])
    await ticks()
    assert a.error is error
    assert log.names == ["announce", "peer_remove"]


async def test_what_a_hook_brings_about_is_told_after_what_it_was_told() -> None:
    one, two, _, _ = pair()
    log = Log()

    def drop(peer: Peer, _session: Session) -> None:
        log.append(("drop",))
        peer.channel.close()

    one.session(CAPABILITY, on_peer_add=drop)
    session = one.session(CAPABILITY, **log.hooks())
    two.session(CAPABILITY)
    await ticks()
    assert log.names == ["drop", "peer_add", "peer_active", "peer_inactive", "peer_remove"]
    assert session.topic._active_peers == 0


async def test_a_session_destroyed_by_another_ones_hook_hears_no_more() -> None:
    one, two, _, _ = pair()
    log = Log()
    one.session(CAPABILITY, on_peer_add=lambda _peer, _session: second.destroy())
    second = one.session(CAPABILITY, **log.hooks())
    two.session(CAPABILITY)
    await ticks()
    assert log == [("destroy",)]


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_on_destroy_that_raises_is_logged(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_session: Session) -> None:
        raise ValueError("of the application")

    async def fail_later(session: Session) -> None:
        fail(session)

    session = Wakeup().session(CAPABILITY, on_destroy=fail_later if is_async else fail)
    with caplog.at_level(logging.ERROR, "protomux_wakeup"):
        session.destroy()
        await ticks()
    assert "on_destroy" in caplog.text


async def test_an_async_on_destroy_runs() -> None:
    done = asyncio.Event()

    async def on_destroy(_session: Session) -> None:
        done.set()

    Wakeup().session(CAPABILITY, on_destroy=on_destroy).destroy()
    await asyncio.wait_for(done.wait(), 5)


# Events


async def test_events_are_an_iterator_that_ends_with_the_session() -> None:
    one, two, a, _ = pair()
    session = one.session(CAPABILITY)
    events = session.events()
    other = two.session(CAPABILITY)
    await ticks()
    (peer,) = session.peers
    other.broadcast_lookup(KEY)
    other.broadcast_announce([(KEY, 1)])
    other.inactive()
    await ticks()
    a.abort()
    await ticks()
    session.destroy()
    assert [event async for event in events] == [
        PeerAdded(peer),
        PeerActive(peer),
        LookedUp(peer, Lookup(KEY)),
        Announced(peer, [Writer(KEY, 1)]),
        PeerInactive(peer),
        PeerRemoved(peer),
    ]
    assert [event async for event in session.events()] == []


async def test_events_wake_who_waits() -> None:
    one, two, _, _ = pair()
    session = one.session(CAPABILITY)

    async def first_two() -> list[Event]:
        found: list[Event] = []
        async for event in session.events():
            found.append(event)
            if len(found) == 2:
                break
        return found

    task = asyncio.create_task(first_two())
    await ticks()
    two.session(CAPABILITY)
    found = await asyncio.wait_for(task, 5)
    assert [type(event) for event in found] == [PeerAdded, PeerActive]
    gc.collect()
    assert not session._events  # nothing is queued for an iterator that is gone


async def test_a_closed_iterator_takes_no_more() -> None:
    one, two, _, _ = pair()
    session = one.session(CAPABILITY)
    events = session.events()
    two.session(CAPABILITY)
    await ticks()
    await events.aclose()
    two.get_sessions(CAPABILITY)[0].inactive()
    await ticks()
    assert [event async for event in events] == []


async def test_a_peer_that_floods_an_application_that_does_not_look_loses_its_stream() -> None:
    one = Wakeup(limits=Limits(queued_events=100))
    session = one.session(CAPABILITY)
    events = session.events()
    stream, peer = with_raw(one)
    peer.open_topic(1)
    many = [Writer(bytes([number]) * 32, number) for number in range(50)]
    peer.announce(1, *many)
    await ticks()
    assert not peer.is_lost
    peer.announce(1, *many)
    await peer.wait_lost()
    await ticks()
    with pytest.raises(LimitExceeded, match="at most 100 entries that wait for the application"):
        raise stream.error or AssertionError("no error")
    session.destroy()
    kinds = [type(event) async for event in events]
    assert kinds == [PeerAdded, PeerActive, Announced, PeerInactive, PeerRemoved]


async def test_who_fills_the_events_pays_for_it_not_who_comes_next() -> None:
    one = Wakeup(limits=Limits(queued_events=100))
    session = one.session(CAPABILITY)
    events = session.events()
    flooded, flooder = with_raw(one)
    honest, friend = with_raw(one)
    flooder.open_topic(1)
    friend.open_topic(1)
    await ticks()
    flooder.announce(1, *[Writer(KEY, number) for number in range(90)])
    flooder.info(1, active=False)
    await ticks()
    friend.announce(1, *[Writer(KEY, 7)] * 20)
    await flooder.wait_lost()
    await ticks()
    with pytest.raises(LimitExceeded, match="at most 100 entries that wait for the application"):
        raise flooded.error or AssertionError("no error")
    assert honest.error is None
    session.destroy()
    seen = [(type(event), event.peer.stream is honest) async for event in events]
    assert seen == [(PeerAdded, True), (PeerActive, True), (Announced, True)]


async def test_who_was_seen_is_seen_to_leave_when_it_pays_for_the_events() -> None:
    one = Wakeup(limits=Limits(queued_events=100))
    session = one.session(CAPABILITY)
    events = session.events()
    _, flooder = with_raw(one)
    _, friend = with_raw(one)
    flooder.open_topic(1)
    friend.open_topic(1)
    seen: list[object] = [type(await anext(events)) for _ in range(4)]
    flooder.announce(1, *[Writer(KEY, number) for number in range(90)])
    flooder.info(1, active=False)
    await ticks()
    friend.announce(1, *[Writer(KEY, 7)] * 20)
    await flooder.wait_lost()
    await ticks()
    session.destroy()
    seen += [type(event) async for event in events]
    assert seen == [*[PeerAdded, PeerActive] * 2, PeerInactive, Announced, PeerRemoved]


async def test_to_come_and_go_fills_no_events() -> None:
    one = Wakeup(limits=Limits(queued_events=100))
    session = one.session(CAPABILITY)
    events = session.events()
    stream, peer = with_raw(one)
    while not peer.is_lost:
        peer.open_topic(1)
        await ticks(3)
        peer.close(1)
        await ticks(3)
    session.destroy()
    assert isinstance(stream.error, LimitExceeded)
    kinds = [type(event) async for event in events]
    assert len(kinds) < 200
    assert kinds.count(PeerAdded) == kinds.count(PeerRemoved)
    assert kinds.count(PeerActive) == kinds.count(PeerInactive)


async def test_one_large_announce_is_never_too_much() -> None:
    one = Wakeup(limits=Limits(queued_events=10))
    session = one.session(CAPABILITY)
    stream, peer = with_raw(one)
    peer.open_topic(1, active=False)
    await ticks()
    events = session.events()
    peer.announce(1, *[Writer(KEY, number) for number in range(50)])
    await ticks()
    assert stream.error is None
    event = await asyncio.wait_for(anext(events), 5)
    assert isinstance(event, Announced)
    assert len(event.writers) == 50


# Collection


async def test_an_idle_topic_is_collected_after_five_ticks() -> None:
    wakeup = Wakeup(gc_interval=0.01)
    collected = asyncio.Event()
    ticked = 0
    collect = wakeup._collect

    def count() -> None:
        nonlocal ticked
        ticked += 1
        collect()
        if not wakeup.topics:
            collected.set()

    wakeup._collect = count  # type: ignore[method-assign]
    stream, peer = with_raw(wakeup)
    session = wakeup.session(CAPABILITY)
    peer.open_topic(1, active=False)
    await ticks()
    session.destroy()
    await asyncio.wait_for(collected.wait(), 5)
    assert ticked == 5
    assert wakeup.stats.topics_gcd == 1
    assert wakeup._gc_timer is None
    await ticks()
    assert peer.bodies()[-1] == (0, b"\x03\x01")
    assert stream.error is None


async def test_a_topic_in_use_again_is_not_collected() -> None:
    wakeup = Wakeup(gc_interval=1000)
    session = wakeup.session(CAPABILITY)
    topic = session.topic
    stream, peer = with_raw(wakeup)
    peer.open_topic(1)
    await ticks()
    session.destroy()
    assert wakeup._gc_timer is None  # an active peer keeps it
    peer.message(1, 2, b"\x00")
    peer.message(1, 2, b"\x00")
    await ticks()
    assert wakeup._gc_timer is not None
    for _ in range(4):
        wakeup._collect()
    peer.message(1, 2, b"\x01")
    await ticks()
    assert wakeup._gc_timer is None
    stream.abort()
    await ticks()
    for _ in range(4):
        wakeup._collect()
    assert wakeup.topics == {ID: topic}
    again = wakeup.session(CAPABILITY)
    assert again.topic is topic
    assert wakeup._gc_timer is None
    wakeup.destroy()


async def test_destroy_ends_everything_but_the_streams() -> None:
    one, two, a, _ = pair()
    log = Log()
    one.session(CAPABILITY, **log.hooks())
    one.session(CAPABILITY)
    one.session(b"\x02" * 32).destroy()
    two.session(CAPABILITY)
    waiting = SecretStream(True)
    one.add_stream(waiting)
    await ticks()
    (peer,) = one.get_sessions(CAPABILITY)[0].peers
    log.clear()
    one.destroy()
    one.destroy()
    assert log == [("peer_inactive", peer), ("peer_remove", peer), ("destroy",)]
    assert one.stats.sessions_opened == one.stats.sessions_closed == 3
    assert not one.topics
    assert one._gc_timer is None
    await ticks()
    assert not one._opening
    assert a.is_open
    assert Protomux.of(a).is_idle()
    with pytest.raises(RuntimeError, match="not destroyed"):
        one.session(CAPABILITY)
    with pytest.raises(RuntimeError, match="not destroyed"):
        one.add_stream(a)
    a.abort()
    waiting.abort()
    two.destroy()
    await ticks()


async def test_a_topic_destroyed_from_a_hook_tells_everybody() -> None:
    one, two, _, _ = pair()
    log = Log()
    one.session(CAPABILITY, on_peer_add=lambda _peer, _session: one.destroy())
    one.session(CAPABILITY, **log.hooks())
    two.session(CAPABILITY)
    await ticks()
    assert log.names == ["peer_add", "peer_active", "peer_inactive", "peer_remove", "destroy"]


async def test_a_session_that_leaves_while_its_topic_is_destroyed_ends_once() -> None:
    one, two, _, _ = pair()
    log = Log()
    one.session(CAPABILITY, on_peer_add=lambda _peer, _session: one.destroy())

    def leave(_peer: Peer, session: Session) -> None:
        log.append(("remove",))
        session.destroy()

    one.session(CAPABILITY, on_peer_remove=leave, **log.hooks("destroy"))
    two.session(CAPABILITY)
    await ticks()
    assert log == [("remove",), ("destroy",)]
    assert one.stats.sessions_closed == 2


async def test_destroying_a_topic_destroys_its_sessions() -> None:
    wakeup = Wakeup()
    session = wakeup.session(CAPABILITY)
    session.topic.destroy()
    session.topic.destroy()
    assert session.is_destroyed
    assert not wakeup.topics
    assert wakeup.stats.topics_gcd == 1


async def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="a gc_interval above 0 seconds, got 0"):
        Wakeup(gc_interval=0)


async def test_reprs_say_what_things_are() -> None:
    wakeup = Wakeup()
    session = wakeup.session(CAPABILITY, active=False)
    stream, peer = with_raw(wakeup)
    session.add_stream(stream)
    (pending,) = session.topic.pending_peers
    assert stream.remote_public_key is not None
    key = stream.remote_public_key.hex()[:16]
    assert repr(pending) == f"<Peer {key} pending>"
    peer.open_topic(1, active=False)
    await ticks()
    assert repr(pending) == f"<Peer {key} inactive>"
    assert repr(session.topic) == f"<Topic {ID.hex()[:16]} inactive 1 sessions 1 peers>"
    stream.abort()
    await ticks()
    stream.remote_public_key = None
    assert repr(pending) == "<Peer ? removed>"


async def test_a_wakeup_hook_that_has_not_begun_ends_with_its_wakeup() -> None:
    begun: list[bytes] = []

    async def on_wakeup(id: bytes, _mux: Protomux) -> None:
        begun.append(id)
        await asyncio.Event().wait()

    a, b = memory_pair()
    one, two = Wakeup(), Wakeup(on_wakeup)
    one.add_stream(a)
    two.add_stream(b)
    one.session(CAPABILITY)
    # The hook was called, its task has not had its first step.
    await until(lambda: len(asyncio.all_tasks()) > 1)
    two.destroy()
    await ticks()
    assert begun == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_session_takes_attributes_of_the_application() -> None:
    one, two, a, b = pair()
    log = Log()
    session = two.session(CAPABILITY, **log.hooks())
    for name in ("arrived", "turned", "left", "announced", "looked_up", "ended"):
        setattr(session, name, "the application's own")
    other = one.session(CAPABILITY)
    await ticks()
    other.lookup(other.peers[0])
    other.inactive()
    other.announce(other.peers[0], [(bytes(32), 1)])
    await ticks()
    a.abort()
    await ticks()
    assert log.names == [
        *("peer_add", "peer_active", "lookup", "peer_inactive", "announce", "peer_remove")
    ]
    assert isinstance(b.error, StreamClosed)
