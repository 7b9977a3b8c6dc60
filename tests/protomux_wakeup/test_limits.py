"""What a peer may say and hold, in virtual time: each bound, and what happens at it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from protomux import LimitExceeded, Protomux
from protomux_wakeup import Limits, Lookup, Peer, Rate, Session, Wakeup, Writer, messages
from protomux_wakeup.capability import Capability
from tests.protomux_wakeup.raw_wakeup import CAPABILITY, ID, KEY, RawWakeup
from tests.stepped import SteppedLoop, WireEnd, settle, wire

OTHER = b"\x02" * 32


class Stage:
    """A `Wakeup` on a stepped loop, with raw peers on wires."""

    def __init__(self, **limits: Any) -> None:
        self.loop = SteppedLoop()  # type: ignore[abstract]
        self.wakeup = Wakeup(self.on_wakeup, limits=Limits(**limits))
        self.ends: list[WireEnd] = []
        self.asked: list[bytes] = []
        self.answers: list[asyncio.Future[None]] = []
        self.is_async = False

    def on_wakeup(self, id: bytes, _mux: Protomux) -> object:
        self.asked.append(id)
        if not self.is_async:
            return None
        self.answers.append(self.loop.create_future())
        return self.answers[-1]

    def peer(self) -> tuple[WireEnd, RawWakeup]:
        """Return our end of a new stream, and who is at the other."""
        a, b = wire(self.loop)
        self.ends += (a, b)
        peer = RawWakeup(b)
        self.wakeup.add_stream(Protomux(a, loop=self.loop))
        return a, peer

    def settle(self) -> None:
        settle(self.loop, *self.ends)

    def pass_time(self, seconds: float) -> None:
        self.loop.advance(seconds)
        self.settle()


def failed(end: WireEnd, match: str) -> None:
    """Assert that the stream of `end` was destroyed for a bound."""
    assert end.is_gone
    with pytest.raises(LimitExceeded, match=match):
        raise end.error or AssertionError("no error")


class Counts:
    """Counts what reaches the hooks of a session."""

    def __init__(self) -> None:
        self.announces = self.lookups = self.turns = 0

    def on_announce(self, _writers: list[Writer], _peer: Peer, _session: Session) -> None:
        self.announces += 1

    def on_lookup(self, _lookup: Lookup, _peer: Peer, _session: Session) -> None:
        self.lookups += 1

    def on_peer_active(self, _peer: Peer, _session: Session) -> None:
        self.turns += 1

    def on_peer_inactive(self, _peer: Peer, _session: Session) -> None:
        self.turns += 1


@pytest.mark.parametrize("kind", ["announces", "entries", "lookups", "infos"])
def test_who_says_too_much_is_paused_and_loses_nothing(kind: str) -> None:
    rate = {"lookups" if kind == "infos" else kind: Rate(10, 2)}
    stage = Stage(**rate)
    counts = Counts()
    stage.wakeup.session(CAPABILITY, counts)
    flooded, flooder = stage.peer()
    _, friend = stage.peer()
    flooder.open_topic(1, active=False)
    friend.open_topic(1, active=False)
    stage.settle()

    def say(peer: RawWakeup, number: int) -> None:
        if kind == "announces":
            peer.announce(1)
        elif kind == "entries":
            peer.announce(1, Writer(KEY, number))
        elif kind == "lookups":
            peer.lookup(1)
        else:
            peer.info(1, active=number % 2 == 0)

    def heard() -> int:
        return counts.announces + counts.lookups + counts.turns

    for number in range(20):
        say(flooder, number)
    stage.settle()
    assert heard() == 11  # the one that overdraws has come already
    assert flooded.is_paused
    say(friend, 0)
    stage.settle()
    assert heard() == 12
    stage.pass_time(0.4)
    assert flooded.is_paused
    stage.pass_time(0.1)
    assert heard() == 13
    for _ in range(100):
        stage.pass_time(0.5)
    assert heard() == 21
    assert not flooded.is_paused
    assert not flooded.is_gone
    assert stage.loop.timers == []


def test_a_pause_for_a_rate_ends_with_the_stream() -> None:
    stage = Stage(lookups=Rate(1, 0.1))
    stage.wakeup.session(CAPABILITY)
    end, peer = stage.peer()
    peer.open_topic(1)
    for _ in range(3):
        peer.lookup(1)
    stage.settle()
    assert end.is_paused
    assert stage.loop.timers
    end.abort()
    stage.settle()
    assert stage.loop.timers == []


def test_a_new_channel_does_not_fill_the_bucket_again() -> None:
    stage = Stage(lookups=Rate(10, 1))
    counts = Counts()
    stage.wakeup.session(CAPABILITY, counts)
    _, peer = stage.peer()
    for _ in range(4):
        peer.open_topic(1)
        for _ in range(5):
            peer.lookup(1)
        peer.close(1)
    stage.settle()
    assert counts.lookups == 11


def test_an_announce_of_too_many_entries_costs_the_stream() -> None:
    stage = Stage(announce_entries=10)
    counts = Counts()
    stage.wakeup.session(CAPABILITY, counts)
    end, peer = stage.peer()
    peer.open_topic(1)
    peer.announce(1, *[Writer(KEY, 1)] * 10)
    stage.settle()
    assert counts.announces == 1
    peer.announce(1, *[Writer(KEY, 1)] * 11)
    stage.settle()
    failed(end, "at most 10 writers, got 11")
    assert counts.announces == 1


def test_an_unproven_peer_has_its_time_and_may_come_again() -> None:
    stage = Stage(proof_time=60)
    session = stage.wakeup.session(CAPABILITY)
    end, peer = stage.peer()
    stage.settle()
    assert len(session.topic.pending_peers) == 1
    stage.pass_time(59)
    assert len(session.topic.pending_peers) == 1
    stage.pass_time(1)
    assert not session.topic.pending_peers
    assert stage.loop.timers == []
    peer.open_topic(1)  # the late answer to what we gave up
    stage.settle()
    assert session.peers == ()
    peer.open_topic(1)
    stage.settle()
    assert len(session.peers) == 1
    assert not end.is_gone


def test_one_pending_peer_too_many_ends_the_oldest() -> None:
    stage = Stage(pending_peers=2)
    session = stage.wakeup.session(CAPABILITY)
    ends = [stage.peer()[0] for _ in range(3)]
    stage.settle()
    assert [peer.stream for peer in session.topic.pending_peers] == ends[1:]
    assert not ends[0].is_gone
    stage.wakeup.destroy()
    assert stage.loop.timers == []


def test_one_stream_too_many_is_destroyed() -> None:
    stage = Stage(streams=2)
    ends = [stage.peer()[0] for _ in range(3)]
    stage.settle()
    failed(ends[2], "at most 2 streams, one more came")
    assert len(list(stage.wakeup.muxes)) == 2
    ends[0].abort()
    stage.settle()
    later, _ = stage.peer()
    stage.settle()
    assert not later.is_gone


def test_one_stream_too_many_for_a_single_session_is_destroyed_as_well() -> None:
    stage = Stage(streams=1)
    session = stage.wakeup.session(CAPABILITY)
    stage.peer()
    a, b = wire(stage.loop)
    stage.ends += (a, b)
    RawWakeup(b)
    session.add_stream(Protomux(a, loop=stage.loop))
    stage.settle()
    failed(a, "at most 1 streams, one more came")


def test_who_opens_too_many_topics_is_rejected_unasked() -> None:
    stage = Stage(asked_topics=Rate(3, 1))
    _, peer = stage.peer()
    for number in range(1, 6):
        peer.open(number, "wakeup", bytes([number]) * 32)
    stage.settle()
    assert [id[0] for id in stage.asked] == [1, 2, 3]
    assert peer.bodies() == [(0, bytes([2, number])) for number in range(1, 6)]
    _, other = stage.peer()
    other.open(1, "wakeup", bytes(32))  # each stream has its own
    stage.settle()
    assert len(stage.asked) == 4
    stage.pass_time(1)
    peer.open(1, "wakeup", b"\x07" * 32)
    stage.settle()
    assert stage.asked[-1] == b"\x07" * 32


def test_a_wakeup_hook_that_takes_too_long_is_given_up_and_the_future_left_to_its_owner() -> None:
    stage = Stage()
    stage.is_async = True
    _, peer = stage.peer()
    peer.open(1, "wakeup", ID, messages.handshake.encode(messages.Handshake(0, OTHER, True)))
    stage.settle()
    stage.pass_time(30)
    assert not stage.answers[0].done()
    assert peer.bodies() == [(0, b"\x02\x01")]
    assert stage.loop.timers == []
    stage.answers[0].set_result(None)
    stage.settle()
    assert peer.bodies() == []


def test_the_hooks_of_a_wakeup_end_with_it_and_the_stream_goes_on() -> None:
    stage = Stage(pair_callbacks=1)
    stage.is_async = True
    end, peer = stage.peer()
    for number in range(1, 4):
        peer.open(number, "wakeup", bytes([number]) * 32)
    stage.settle()
    assert len(stage.asked) == 3
    stage.wakeup.destroy()
    stage.settle()
    assert sorted(peer.bodies()) == [(0, bytes([2, number])) for number in range(1, 4)]
    assert not end.is_gone
    assert stage.loop.timers == []


def test_an_id_that_is_none_of_wakeup_is_rejected_unasked() -> None:
    stage = Stage()
    _, peer = stage.peer()
    peer.open(1, "wakeup", bytes(31))
    peer.open(2, "wakeup", bytes(33))
    peer.open(3, "wakeup")
    stage.settle()
    assert stage.asked == []
    assert peer.bodies() == [(0, bytes([2, number])) for number in range(1, 4)]


def test_a_wrong_proof_leaves_nothing_and_tells_nobody() -> None:
    stage = Stage()
    counts = Counts()
    session = stage.wakeup.session(CAPABILITY, counts)
    _, peer = stage.peer()
    peer.open_topic(1, proof=Capability(OTHER).prove(False, bytes(64)))
    peer.lookup(1)
    peer.announce(1, Writer(KEY, 1))
    stage.settle()
    assert (counts.lookups, counts.announces, counts.turns) == (0, 0, 0)
    assert session.topic.pending_peers == session.peers == ()
    assert stage.loop.timers == []


def test_wrong_proofs_are_soon_too_many() -> None:
    stage = Stage(asked_topics=Rate(200, 1))
    session = stage.wakeup.session(CAPABILITY, active=False)
    end, peer = stage.peer()
    stage.settle()
    answers = []
    for _ in range(6):
        peer.open_topic(1, proof=bytes(32))
        stage.settle()
        answers.append([body[0] for _, body in peer.bodies()])
    # An open and a close four times, then rejects.
    assert answers == [[1, 3]] * 4 + [[2]] * 2
    assert session.peers == ()
    assert not end.is_gone
    stage.pass_time(3600)
    peer.open_topic(1)
    stage.settle()
    assert len(session.peers) == 1
