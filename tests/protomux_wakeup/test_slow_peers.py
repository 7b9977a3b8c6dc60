"""What a peer costs that does not read, and what it is told when it does again."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections import Counter
from typing import Any

import pytest

from protomux import EncodingError, LimitExceeded, Protomux
from protomux.streams import memory_pair
from protomux.streams.memory import MemoryStream
from protomux_wakeup import Limits, Session, Wakeup, Writer, messages
from protomux_wakeup.backlog import ANNOUNCE_ENTRIES
from tests.protomux_wakeup.raw_wakeup import CAPABILITY, RawWakeup, with_raw
from tests.ticking import ticks, until


def key_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


async def stuck(wakeup: Wakeup, session: Session) -> tuple[MemoryStream, RawWakeup]:
    """Return a proven peer that does not read, with its stream full."""
    stream, peer = with_raw(wakeup)
    peer.open_topic(1)
    await ticks()
    peer.bodies()
    peer.stream.pause_reading()
    filler = Protomux.of(stream).create_channel("filler", messages=[messages.lookup])
    assert filler is not None
    filler.open()
    while filler.messages[0].send(messages.Lookup(bytes(32))):
        await ticks(1)
    assert not session.announce(session.peers[-1], [Writer(key_of(0), 0)])
    return stream, peer


def told(peer: RawWakeup) -> list[object]:
    """What came on the wakeup channel, decoded."""
    encodings = (messages.lookup, messages.announce, messages.info)
    values: list[object] = []
    for channel, body in peer.bodies():
        if channel == 1:
            values.append(encodings[body[0]].decode(body, 1, len(body))[0])
    return values


async def test_news_are_merged_and_the_newest_length_is_told() -> None:
    wakeup = Wakeup()
    session = wakeup.session(CAPABILITY)
    _, peer = await stuck(wakeup, session)
    (one,) = session.peers
    for length in range(1000):
        assert not session.announce(one, [(key_of(length % 3), length)])
    for _ in range(3):
        assert not session.lookup(one, b"\x05" * 32)
    session.inactive()
    session.active()
    session.inactive()
    before = wakeup.stats.wire_announce.tx
    peer.stream.resume_reading()
    assert await asyncio.wait_for(one.wait_drained(), 5)
    await ticks()
    assert told(peer) == [
        messages.Info(False),
        messages.Lookup(b"\x05" * 32),
        [Writer(key_of(0), 999), Writer(key_of(1), 997), Writer(key_of(2), 998)],
    ]
    assert wakeup.stats.wire_announce.tx == before + 1
    assert session.announce(one, [(key_of(9), 9)])  # and again at once from here on
    await ticks()
    assert told(peer) == [[Writer(key_of(9), 9)]]


async def test_lookups_with_different_hashes_become_one_without() -> None:
    wakeup = Wakeup()
    session = wakeup.session(CAPABILITY)
    _, peer = await stuck(wakeup, session)
    (one,) = session.peers
    session.lookup(one, b"\x05" * 32)
    session.lookup(one, b"\x06" * 32)
    peer.stream.resume_reading()
    assert await asyncio.wait_for(one.wait_drained(), 5)
    await ticks()
    assert messages.Lookup(None) in told(peer)


async def test_each_peer_of_a_stream_has_its_turn() -> None:
    wakeup = Wakeup()
    stream, other = memory_pair()
    wakeup.add_stream(stream)
    theirs = Wakeup()
    theirs.add_stream(other)
    heard: Counter[int] = Counter()
    sessions = []
    for number in range(200):
        capability = key_of(number)
        sessions.append(wakeup.session(capability))
        theirs.session(
            capability, on_announce=lambda _writers, _peer, _session, n=number: heard.update([n])
        )
    await until(lambda: all(session.peers for session in sessions))
    many = [(key_of(number), number) for number in range(100)]
    for _ in range(40):
        for session in sessions:
            session.broadcast_announce(many)
        await ticks(2)
    assert len(heard) == 200
    assert max(heard.values()) - min(heard.values()) <= 5


async def test_what_waits_costs_a_constant() -> None:
    wakeup = Wakeup()
    session = wakeup.session(CAPABILITY)
    streams = [await stuck(wakeup, session) for _ in range(4)]
    keys = [key_of(number) for number in range(20)]

    def tell(rounds: range) -> int:
        for length in rounds:
            session.broadcast_announce([(key, length) for key in keys])
            session.broadcast_lookup(length.to_bytes(32, "big"))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        first = tell(range(1000, 1010))
        then = tell(range(2000, 2500))
        start = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert then - first < 1000  # bytes, for 50 times as much
    assert start < 4 * (20 * 150 + 2000)
    assert all(not stream.error for stream, _ in streams)


async def test_a_long_backlog_leaves_in_parts_as_the_peer_reads() -> None:
    wakeup = Wakeup()
    session = wakeup.session(CAPABILITY)
    _, peer = await stuck(wakeup, session)
    (one,) = session.peers
    count = 5 * ANNOUNCE_ENTRIES + 7
    session.announce(one, [(key_of(number), number) for number in range(count)])
    peer.stream.resume_reading()
    assert await asyncio.wait_for(one.wait_drained(), 5)
    await ticks()
    parts = told(peer)
    assert [len(part) for part in parts if isinstance(part, list)] == [ANNOUNCE_ENTRIES] * 5 + [7]
    lengths = {key: length for part in parts if isinstance(part, list) for key, length in part}
    assert lengths == {key_of(number): number for number in range(count)}


async def test_an_announce_larger_than_a_frame_leaves_in_parts() -> None:
    wakeup = Wakeup(limits=Limits(frame_size=100_000, merged_entries=10_000))
    session = wakeup.session(CAPABILITY)
    _, peer = with_raw(wakeup)
    peer.open_topic(1)
    await ticks()
    (one,) = session.peers
    session.announce(one, [(key_of(number), number) for number in range(50_000)])
    assert await asyncio.wait_for(one.wait_drained(), 5)
    await ticks()
    parts = [part for part in told(peer) if isinstance(part, list)]
    assert sum(map(len, parts)) == 50_000


async def test_wrong_entries_are_refused_at_once_also_while_they_would_wait() -> None:
    wakeup = Wakeup()
    session = wakeup.session(CAPABILITY)
    await stuck(wakeup, session)
    (one,) = session.peers
    with pytest.raises(EncodingError, match="expected 32 bytes, got 5"):
        session.announce(one, [(b"short", 1)])
    with pytest.raises(EncodingError, match="an integer"):
        session.announce(one, [(key_of(1), -1)])
    with pytest.raises(EncodingError, match="expected 32 bytes, got 5"):
        session.lookup(one, b"short")


async def test_news_of_too_many_logs_make_a_dead_peer() -> None:
    wakeup = Wakeup(limits=Limits(merged_entries=100))
    session = wakeup.session(CAPABILITY)
    stream, peer = await stuck(wakeup, session)
    (one,) = session.peers
    keys: list[Any] = [bytearray(key_of(number)) for number in range(1, 100)]
    session.announce(one, ((key, 1) for key in keys))
    await ticks()
    assert stream.error is None
    waiting = asyncio.ensure_future(one.wait_drained())
    session.announce(one, [(key_of(number), 1) for number in range(100, 102)])
    await peer.wait_lost()
    assert await asyncio.wait_for(waiting, 5) is False
    with pytest.raises(LimitExceeded, match="at most 100 logs of which news wait"):
        raise stream.error or AssertionError("no error")
    assert session.peers == ()


async def test_a_peer_that_reads_nothing_of_our_answers_is_dead() -> None:
    a, b = memory_pair()
    Protomux(a, limits=Limits(unsent_most=100_000))
    peer = RawWakeup(b)
    b.pause_reading()
    for _ in range(200):
        for number in range(1, 501):
            peer.open(number, "nobody wants it")
        await ticks(3)
        if peer.is_lost:
            break
    await peer.wait_lost()
    with pytest.raises(LimitExceeded, match=r"1\d{5} bytes wait for it and at most 100000 may"):
        raise a.error or AssertionError("no error")


async def test_a_pending_peer_is_asked_when_it_reads() -> None:
    wakeup = Wakeup()
    session = wakeup.session(CAPABILITY)
    stream, peer = with_raw(wakeup)
    await ticks()
    peer.stream.pause_reading()
    filler = Protomux.of(stream).create_channel("filler", messages=[messages.lookup])
    assert filler is not None
    filler.open()
    while filler.messages[0].send(messages.Lookup(bytes(32))):
        await ticks(1)
    session.broadcast_lookup()
    session.broadcast_lookup()
    peer.stream.resume_reading()
    await until(lambda: Protomux.of(stream).drained)
    await ticks()
    assert [value for value in told(peer) if isinstance(value, messages.Lookup)] == [
        messages.Lookup(None)
    ]


async def test_an_announce_of_more_entries_than_a_peer_takes_leaves_in_parts() -> None:
    one, two = (Wakeup(limits=Limits(announce_entries=5000)) for _ in range(2))
    a, b = memory_pair()
    one.add_stream(a)
    two.add_stream(b)
    parts: list[int] = []
    session = one.session(CAPABILITY)
    two.session(CAPABILITY, on_announce=lambda writers, _peer, _session: parts.append(len(writers)))
    await until(lambda: session.peers)
    (peer,) = session.peers
    session.announce(peer, [(key_of(number), number) for number in range(5000)])
    await until(lambda: parts == [5000])
    session.announce(peer, [(key_of(number), number) for number in range(5001)])
    await until(lambda: parts == [5000, ANNOUNCE_ENTRIES, 5001 - ANNOUNCE_ENTRIES])


async def test_after_a_false_one_waits_for_the_stream_and_is_not_behind() -> None:
    wakeup = Wakeup(limits=Limits(merged_entries=50, unsent_size=100))
    session = wakeup.session(CAPABILITY)
    heard: list[int] = []
    theirs = Wakeup()
    theirs.session(
        CAPABILITY,
        on_announce=lambda writers, _peer, _session: heard.extend(
            writer.length for writer in writers
        ),
    )
    stream, other = memory_pair()
    wakeup.add_stream(stream)
    theirs.add_stream(other)
    await until(lambda: bool(session.peers))
    (one,) = session.peers
    assert not session.announce(one, [(key_of(number), number) for number in range(10)])
    waiting = asyncio.ensure_future(one.wait_drained())
    await asyncio.sleep(0)  # it begins to wait
    assert not session.announce(one, [(key_of(number), number) for number in range(10, 70)])
    assert await asyncio.wait_for(waiting, 5)
    assert one.channel.drained
    await until(lambda: len(heard) == 70)
    assert sorted(heard) == list(range(70))
    assert not one.is_removed


async def test_a_broadcast_without_peers_says_nothing() -> None:
    wakeup = Wakeup()
    session = wakeup.session(CAPABILITY)
    session.broadcast_announce([(b"no key", -1)])
    session.destroy()
    session.broadcast_announce([(b"no key", -1)])
    assert wakeup.stats.wire_announce.tx == 0
