"""Two Wakeups over several streams, some of them hostile, against a model of what they owe.

Time passes by rules, on wires that deliver when they are told to. A stream on which the machine has
tampered with a frame, said something of its own, or let a hook raise is *spoilt*: it may end, with
a `ProtomuxError` or the hook's own error, and nothing more is expected of it. The others must not
notice. On them, whenever all is quiet,

- a topic on which both sides have an active session has a peer on both sides,
- a peer is there on both sides or on neither, and known to be active or not as it is,
- every log ends at the newest length that was announced since the session could hear of it.

On all of them a hook sees only peers who have proved the capability, in the order add, active,
inactive, remove, and no more after the end of its session.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fuzz.harness.stage import Deliberate, Stage, check_error, check_mux_is_empty
from protomux import Protomux
from protomux.frames import CONTROL, close_body, encode_frame, open_body, reject_body
from protomux_wakeup import Limits, Lookup, Peer, Session, Wakeup, Writer, messages
from protomux_wakeup.capability import Capability
from protomux_wakeup.limits import Rate
from tests.stepped import WireEnd, wire

SIDES = st.sampled_from([0, 1])
STREAMS = st.integers(0, 3)
TOPICS = st.integers(0, 3)
KINDS = st.sampled_from(["plain", "plain", "plain", "async", "hangs", "raises"])
KEYS: Final = [bytes([key]) * 32 for key in (0x11, 0x22)]
GC_INTERVAL: Final = 2.0

SECRETS: Final = (
    (b"\x01" * 32, b"\x01" * 32),
    (b"\x02" * 32, b"\x02" * 32),
    (b"\x03" * 32, None),
    (b"\x04" * 32, b"\x05" * 32),
)
"""The capability that each side has of each topic: two are shared, one only the first side knows,
one they disagree about."""

IDS: Final = (None, None, None, b"\x06" * 32)
SHARED: Final = (0, 1)

LIMITS: Final = Limits(held_size=3000, unsent_size=300, announces=Rate(6, 4.0), proof_time=math.inf)
"""Small, so that reading pauses and resumes, and announces are merged. Nobody is given up who waits
for a hook that hangs, since nobody would open the topic again then."""


def capability(side: int, topic: int) -> Capability:
    secret = SECRETS[topic][side]
    assert secret is not None
    return Capability(secret, IDS[topic])


class Watched(Protomux):
    """A mux whose frames are looked at before it takes them."""

    look: Callable[[bytes], None]

    def frame_received(self, frame: bytes) -> None:
        self.look(frame)
        super().frame_received(frame)


class Line:
    """One stream between the two sides."""

    def __init__(self, number: int, ends: tuple[WireEnd, WireEnd], muxes: list[Watched]) -> None:
        self.number = number
        self.ends = ends
        self.muxes = muxes
        self.is_spoilt = False
        self.is_gone = False
        self.shared = [False, False]
        self.proofs: set[tuple[int, int]] = set()
        """(side, topic) of every true proof that the side was shown."""

    @property
    def is_honest(self) -> bool:
        return not self.is_spoilt and not self.is_gone


class Listener:
    """The hooks of one session, and what they heard."""

    def __init__(self, machine: Stack, side: int, topic: int, kind: str) -> None:
        self.machine = machine
        self.side = side
        self.topic = topic
        self.kind = kind
        self.session: Session
        self.born = machine.next_moment()
        self.peers: dict[Peer, bool] = {}
        self.heard: dict[tuple[Peer, bytes], int] = {}
        self.is_over = False

    def start(self, session: Session) -> None:
        self.session = session
        # It is not told of the peers who were there before it.
        self.peers = {peer: peer.is_active for peer in session.peers}

    def on_peer_add(self, peer: Peer, session: Session) -> Any:
        assert peer not in self.peers, "added twice"
        self.peers[peer] = False
        return self.happened(peer)

    def on_peer_remove(self, peer: Peer, session: Session) -> Any:
        assert self.peers.pop(peer) is False, "removed while active"
        return self.happened(peer)

    def on_peer_active(self, peer: Peer, session: Session) -> Any:
        assert self.peers[peer] is False, "active twice"
        self.peers[peer] = True
        return self.happened(peer)

    def on_peer_inactive(self, peer: Peer, session: Session) -> Any:
        assert self.peers[peer] is True, "inactive twice"
        self.peers[peer] = False
        return self.happened(peer)

    def on_announce(self, writers: list[Writer], peer: Peer, session: Session) -> Any:
        assert peer in self.peers, "an announce of nobody"
        for key, length in writers:
            self.heard[peer, key] = length
        return self.happened(peer)

    def on_lookup(self, lookup: Lookup, peer: Peer, session: Session) -> Any:
        assert peer in self.peers, "a lookup of nobody"
        return self.happened(peer)

    def on_destroy(self, session: Session) -> None:
        assert not self.is_over, "ended twice"
        self.is_over = True

    def happened(self, peer: Peer) -> Any:
        assert not self.is_over, "after the end of the session"
        assert not peer.is_pending
        line = self.machine.line_of(peer)
        assert (self.side, self.topic) in line.proofs, "an unproven peer reached a hook"
        if self.kind == "raises":
            line.is_spoilt = True
            raise Deliberate
        if self.kind == "async":
            return asyncio.sleep(0)
        return self.machine.stage.hang() if self.kind == "hangs" else None


class Stack(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage()
        self.loop = self.stage.loop
        asyncio._set_running_loop(self.loop)
        self.moment = 0
        self.lines: list[Line] = []
        self.listeners: list[Listener] = []
        self.announced: dict[tuple[Peer, bytes], tuple[int, int]] = {}
        """When and with what length a peer was told of a log, last."""
        self.wakes: list[str] = ["plain", "plain"]
        self.wakeups = [
            Wakeup(self.waker(side), gc_interval=GC_INTERVAL, limits=LIMITS) for side in (0, 1)
        ]

    def next_moment(self) -> int:
        self.moment += 1
        return self.moment

    def waker(self, side: int) -> Any:
        def on_wakeup(id: bytes, _mux: Protomux) -> Any:
            topics = [topic for topic in self.topics_of(side) if capability(side, topic).id == id]
            match self.wakes[side]:
                case "answers" if topics:
                    self.add_session(side, topics[0], False, "plain")
                case "answers later" if topics:
                    return self.wake_later(side, topics[0])
                case "hangs":
                    return self.stage.hang()
            return None

        return on_wakeup

    async def wake_later(self, side: int, topic: int) -> None:
        await self.stage.hang()
        self.add_session(side, topic, True, "plain")

    def topics_of(self, side: int) -> Iterator[int]:
        return (topic for topic, secrets in enumerate(SECRETS) if secrets[side] is not None)

    def line_of(self, peer: Peer) -> Line:
        return next(line for line in self.lines if peer.stream in line.ends)

    def add_session(self, side: int, topic: int, is_active: bool, kind: str) -> None:
        secret = SECRETS[topic][side]
        if secret is None:
            return
        listener = Listener(self, side, topic, kind)
        session = self.wakeups[side].session(
            secret, listener, active=is_active, discovery_key=IDS[topic]
        )
        listener.start(session)
        self.listeners.append(listener)

    def living(self, side: int, topic: int) -> list[Listener]:
        return [
            listener
            for listener in self.listeners
            if (listener.side, listener.topic) == (side, topic)
            and not listener.session.is_destroyed
        ]

    # Streams

    @initialize(lines=st.integers(1, 3), is_met=st.booleans())
    def begin(self, lines: int, is_met: bool) -> None:
        for _ in range(lines):
            self.connect(True, True)
        self.add_session(0, 0, True, "plain")
        if is_met:
            self.add_session(1, 0, True, "plain")
            self.settle()

    @precondition(lambda self: len(self.lines) < 4)
    @rule(first=st.booleans(), second=st.booleans())
    def connect(self, first: bool, second: bool) -> None:
        number = len(self.lines)
        ends = wire(self.loop)
        for end in ends:
            end.handshake_hash = bytes([number + 1]) * 64
        muxes = [Watched(end, loop=self.loop, limits=LIMITS) for end in ends]
        line = Line(number, ends, muxes)
        self.lines.append(line)
        for side in (0, 1):
            muxes[side].look = partial(self.look_for_proofs, line, side)
            muxes[side].add_close_callback(check_error)
        self.share(number, first, second)

    def look_for_proofs(self, line: Line, side: int, frame: bytes) -> None:
        for topic in self.topics_of(side):
            hash = line.ends[side].handshake_hash
            assert hash is not None
            if capability(side, topic).prove(side == 1, hash) in frame:
                line.proofs.add((side, topic))

    @rule(number=STREAMS, first=st.booleans(), second=st.booleans())
    def share(self, number: int, first: bool, second: bool) -> None:
        line = self.line(number)
        for side, wanted in enumerate((first, second)):
            if wanted and not line.is_gone:
                self.wakeups[side].add_stream(line.ends[side])
                line.shared[side] = True

    def line(self, number: int) -> Line:
        return self.lines[number % len(self.lines)]

    @rule(number=STREAMS, sure=st.integers(0, 3))
    def lose(self, number: int, sure: int) -> None:
        if sure == 0:
            line = self.line(number)
            line.is_gone = True
            line.ends[0].abort()

    @rule(number=STREAMS, side=SIDES, is_full=st.booleans())
    def fill(self, number: int, side: int, is_full: bool) -> None:
        self.set_full(self.line(number), side, is_full)

    def set_full(self, line: Line, side: int, is_full: bool) -> None:
        end = line.ends[side]
        if not end.is_gone and end.is_full is not is_full:
            end.is_full = is_full
            if is_full:
                line.muxes[side].pause_writing()
            else:
                line.muxes[side].resume_writing()

    # Sessions

    @rule(side=SIDES, topic=TOPICS, is_active=st.booleans(), kind=KINDS)
    def open_session(self, side: int, topic: int, is_active: bool, kind: str) -> None:
        if len(self.living(side, topic)) < 3:
            self.add_session(side, topic, is_active, kind)

    @precondition(lambda self: self.listeners)
    @rule(which=st.integers(0, 20), is_active=st.booleans())
    def turn(self, which: int, is_active: bool) -> None:
        session = self.listeners[which % len(self.listeners)].session
        (session.active if is_active else session.inactive)()

    @precondition(lambda self: self.listeners)
    @rule(which=st.integers(0, 20))
    def close_session(self, which: int) -> None:
        self.listeners[which % len(self.listeners)].session.destroy()

    @rule(side=SIDES, how=st.sampled_from(["plain", "answers", "answers later", "hangs"]))
    def when_woken(self, side: int, how: str) -> None:
        self.wakes[side] = how

    @precondition(lambda self: self.listeners)
    @rule(which=st.integers(0, 20), has_hash=st.booleans())
    def look_up(self, which: int, has_hash: bool) -> None:
        session = self.listeners[which % len(self.listeners)].session
        session.broadcast_lookup(bytes(32) if has_hash else None)

    @precondition(lambda self: self.listeners)
    @rule(
        which=st.integers(0, 20),
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=2, unique=True),
        count=st.sampled_from([1, 1, 1, 8]),
    )
    def announce(self, which: int, keys: list[bytes], count: int) -> None:
        session = self.listeners[which % len(self.listeners)].session
        for _ in range(count):
            moment = self.next_moment()
            session.broadcast_announce([(key, moment) for key in keys])
            if not session.is_destroyed:
                self.announced.update(
                    {(peer, key): (moment, moment) for peer in session.peers for key in keys}
                )

    @precondition(lambda self: self.listeners)
    @rule(
        number=STREAMS,
        which=st.integers(0, 20),
        keys=st.lists(st.sampled_from(KEYS), min_size=2, max_size=6),
        has_more=st.booleans(),
    )
    def announce_while_full(
        self, number: int, which: int, keys: list[bytes], has_more: bool
    ) -> None:
        """News of one log after the other, to a peer that does not keep up."""
        listener = self.listeners[which % len(self.listeners)]
        self.set_full(self.line(number), listener.side, True)
        for key in keys:
            self.announce(which, [key], 1)
        if has_more:
            self.look_up(which, False)
            self.turn(which, not listener.session.is_active)

    # Hostile things

    @rule(
        number=STREAMS,
        side=SIDES,
        how=st.sampled_from(["drop", "double", "cut", "change", "swap"]),
        where=st.integers(0, 400),
        bit=st.integers(0, 7),
    )
    def tamper(self, number: int, side: int, how: str, where: int, bit: int) -> None:
        line = self.line(number)
        inbox = line.ends[side].inbox
        # The first stream stays honest, so that there is always one to be affected.
        if line.number == 0 or not inbox or not inbox[0]:
            return
        line.is_spoilt = True
        frame = inbox[0]
        match how:
            case "drop":
                inbox.popleft()
            case "double":
                inbox.append(frame)
            case "cut":
                inbox[0] = frame[: where % len(frame)]
            case "change":
                changed = bytearray(frame)
                changed[where % len(frame)] ^= 1 << bit
                inbox[0] = bytes(changed)
            case "swap":
                inbox.rotate(1)

    @rule(
        number=st.integers(1, 3),
        side=SIDES,
        own_number=st.integers(0, 4),
        topic=TOPICS,
        what=st.sampled_from(
            ["open", "reject", "close", "lookup", "announce", "info", "open wrongly"]
        ),
    )
    def forge(self, number: int, side: int, own_number: int, topic: int, what: str) -> None:
        """Say something to `side` that its peer has not said."""
        line = self.line(number)
        if line.number == 0 or line.is_gone:
            return
        line.is_spoilt = True
        end = line.ends[side]
        assert end.handshake_hash is not None
        known = capability(0, topic)
        match what:
            case "open" | "open wrongly":
                # A proof that is true for the one side is the wrong one for the other; of the
                # topic that the sides disagree about it is always wrong.
                is_true = what == "open" and SECRETS[topic][1] == SECRETS[topic][0]
                role = (side == 1) is is_true
                proof = known.prove(role, end.handshake_hash)
                handshake = messages.handshake.encode(messages.Handshake(0, proof, True))
                body = open_body(own_number, messages.PROTOCOL, known.id, handshake)
                frame = encode_frame(CONTROL, body)
            case "reject":
                frame = encode_frame(CONTROL, reject_body(own_number))
            case "close":
                frame = encode_frame(CONTROL, close_body(own_number))
            case "lookup":
                frame = encode_frame(own_number, b"\x00\x00")
            case "announce":
                frame = encode_frame(
                    own_number, b"\x01" + messages.announce.encode([(KEYS[0], 10**9)])
                )
            case _:
                frame = encode_frame(own_number, b"\x02\x01")
        end.inbox.appendleft(frame)

    # Time

    @rule(number=STREAMS, side=SIDES, count=st.integers(1, 4))
    def arrive(self, number: int, side: int, count: int) -> None:
        for _ in range(count):
            self.line(number).ends[side].deliver()

    @rule()
    def tick(self) -> None:
        self.loop.tick()

    @rule(which=st.integers(0, 7), how=st.sampled_from([0, 0, 2]))
    def hook_returns(self, which: int, how: int) -> None:
        self.stage.release(which, how)

    @rule(seconds=st.sampled_from([0.5, 2.0, 15.0]))
    def wait(self, seconds: float) -> None:
        self.let_pass(seconds)

    def let_pass(self, seconds: float) -> None:
        self.quiet()
        until = self.loop.now + seconds
        while due := [timer.when() for timer in self.loop.timers if timer.when() <= until]:
            self.loop.advance(max(min(due) - self.loop.now, 0.0))
            self.quiet()
        self.loop.advance(until - self.loop.now)

    def quiet(self) -> None:
        """Let everything happen that happens by itself."""
        if self.is_quiet_after(1000):
            return
        # Once an open between two sides that disagree about a capability was lost or doubled, each
        # takes the answer of the other for a new open, and answers. No stream does that by itself.
        for line in self.lines:
            if line.is_spoilt:
                line.ends[0].abort()
        assert self.is_quiet_after(1000), "not quiet after 1,000 ticks"

    def is_quiet_after(self, ticks: int) -> bool:
        ends = [end for line in self.lines for end in line.ends]
        return not all(
            any([self.loop.tick(), *(end.deliver() for end in ends)]) for _ in range(ticks)
        )

    @rule()
    def settle(self) -> None:
        """Let all happen that is to happen, and compare with the model."""
        for line in self.lines:
            for side in (0, 1):
                self.set_full(line, side, False)
        self.quiet()
        for _ in range(200):  # those who said too much are not read for a while
            honest = [end for line in self.lines if line.is_honest for end in line.ends]
            if not any(end.inbox or end.is_paused for end in honest):
                break
            self.let_pass(1.0)
        self.compare()

    @invariant()
    def sessions_know_their_peers(self) -> None:
        for listener in self.listeners:
            if not listener.session.is_destroyed:
                assert set(listener.peers) == set(listener.session.peers)
                for peer, is_active in listener.peers.items():
                    assert peer.is_active is is_active

    def compare(self) -> None:
        for line in self.lines:
            if line.is_honest:
                assert not line.ends[0].is_gone, line.ends[0].error
                assert not any(end.inbox for end in line.ends), "an honest stream stands still"
                for topic in range(len(SECRETS)):
                    self.compare_topic(line, topic)

    def compare_topic(self, line: Line, topic: int) -> None:
        listeners = [self.living(side, topic) for side in (0, 1)]
        peers = [self.peer_on(line, side, topic) for side in (0, 1)]
        if topic not in SHARED:
            assert peers == [None, None], "peers without a common capability"
            return
        assert (peers[0] is None) is (peers[1] is None), "a peer on one side only"
        is_active = [any(one.session.is_active for one in side) for side in listeners]
        if all(is_active) and all(line.shared):
            assert peers[0] is not None, "both want news and neither has a peer"
        for side in (0, 1):
            ours, theirs = peers[side], peers[1 - side]
            if ours is None or theirs is None:
                continue
            assert ours.is_active is is_active[1 - side], "not known to be active as it is"
            for key in KEYS:
                moment, length = self.announced.get((theirs, key), (0, 0))
                for listener in listeners[side]:
                    if listener.born < moment:
                        assert listener.heard.get((ours, key)) == length, "news were lost"

    def peer_on(self, line: Line, side: int, topic: int) -> Peer | None:
        if SECRETS[topic][side] is None:
            return None
        found = self.wakeups[side].topics.get(capability(side, topic).id)
        peers = [peer for peer in found.peers if peer.stream is line.ends[side]] if found else []
        assert len(peers) <= 1
        return peers[0] if peers else None

    def teardown(self) -> None:
        try:
            self.end()
        finally:
            asyncio._set_running_loop(None)

    def end(self) -> None:
        self.settle()
        for line in self.lines:
            line.is_gone = True
            line.ends[0].abort()
        self.quiet()
        while self.stage.waiting:
            self.stage.release(0, 0)
            self.quiet()
        for line in self.lines:
            for end, mux in zip(line.ends, line.muxes, strict=True):
                check_error(end.error)
                check_mux_is_empty(mux)
        for wakeup in self.wakeups:
            stats = wakeup.stats
            assert stats.peers_added == stats.peers_removed
            assert not list(wakeup.muxes)
            for topic in wakeup.topics.values():
                assert not topic.peers
                assert not topic.pending_peers
            wakeup.destroy()
            assert not wakeup.topics
            assert stats.sessions_opened == stats.sessions_closed
            assert stats.topics_added == stats.topics_gcd
        assert all(listener.is_over for listener in self.listeners)
        self.stage.close()


TestStack = Stack.TestCase
_IS_LONG: Final = os.environ.get("FUZZ") == "long"
TestStack.settings = settings(
    max_examples=3000 if _IS_LONG else 100,
    stateful_step_count=100 if _IS_LONG else 50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
