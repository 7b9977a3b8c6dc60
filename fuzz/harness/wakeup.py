"""A Wakeup with two streams, each with a peer that sends whatever the input says.

The peers know the capability of one topic; of the others they know the id, or nothing. Whatever
they send, a hook sees only who has sent the right proof on that very stream, and each sees a peer
come, become active and inactive, and go, in that order.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, NamedTuple

from fuzz.harness import script
from fuzz.harness.script import Step
from fuzz.harness.stage import Deliberate, Finding, Stage, check_error, check_mux_is_empty, stage
from protomux import Protomux, ProtomuxError
from protomux.frames import CONTROL, close_body, encode_batch, encode_frame, open_body, reject_body
from protomux_wakeup import Limits, Peer, Session, Wakeup, messages
from protomux_wakeup.capability import Capability
from protomux_wakeup.limits import Rate
from tests.stepped import WireEnd

__all__ = ["MAX_SIZE", "OPS", "TOPICS", "Op", "run"]

MAX_SIZE: Final = 2048


class _Secret(NamedTuple):
    secret: bytes
    discovery_key: bytes | None


TOPICS: Final = (
    _Secret(b"\x01" * 32, None),
    _Secret(b"\x02" * 32, b"\x06" * 32),
    _Secret(b"\x03" * 32, None),
)
"""Ours. The peers know the first; for the second they hold another secret, b"\x04" * 32."""

_OURS: Final = tuple(Capability(*topic) for topic in TOPICS)
_KNOWN: Final = (_OURS[0], Capability(b"\x04" * 32, b"\x06" * 32))
_LIMITS: Final = Limits(
    held_size=3000,
    channels=8,
    waiting_opens=5,
    waiting_size=300,
    waiting_time=9.0,
    unsent_size=300,
    unsent_most=2000,
    streams=2,
    announces=Rate(6, 4.0),
    entries=Rate(30, 10.0),
    lookups=Rate(6, 4.0),
    announce_entries=24,
    merged_entries=4,
    pending_peers=4,
    proof_time=12.0,
    asked_topics=Rate(4, 1.0),
    queued_events=40,
)


class Op(IntEnum):
    """What a step does, with bit 7 set on the second stream; its data says the rest."""

    FRAME = 0  # the peer sends these bytes
    QUIET = 1  # all happens that happens by itself
    TICK = 2
    SESSION = 3  # topic, 1: inactive, kind of hooks
    ACT = 4  # session, what
    RELEASE = 5  # which hanging hook, how
    LOSE = 6
    DESTROY = 7
    TIME = 8  # quarters of a second
    ADD_STREAM = 9
    PEER_OPENS = 10  # number, topic, whose proof, flags
    PEER_SAYS = 11  # number, type, payload
    PEER_ANSWERS = 12  # 1: close, 2: reject; number
    PEER_BATCH = 13  # that many of the frames before it, as one
    PEER_ANNOUNCES = 14  # number, writers
    WHEN_WOKEN = 15  # what on_wakeup does
    FULL = 16  # 0: the stream takes more


OPS: Final = Op


class _Line:
    """One stream and its peer."""

    def __init__(self, stage: Stage, number: int, is_initiator: bool) -> None:
        self.end = stage.end(is_initiator)
        # Another one for each, so that a proof of the one is worth nothing on the other.
        self.end.handshake_hash = bytes(63) + bytes([number])
        self.mux = Protomux(self.end, loop=stage.loop, limits=_LIMITS)
        self.said: list[bytes] = []

    def say(self, frame: bytes) -> None:
        if not self.end.is_gone:
            self.said.append(frame)
            self.end.inbox.append(frame)

    def fill(self, is_full: bool) -> None:
        if self.end.is_gone or is_full is self.end.is_full:
            return
        self.end.is_full = is_full
        if is_full:
            self.mux.pause_writing()
        else:
            self.mux.resume_writing()

    def has_proved(self, capability: Capability) -> bool:
        """The right proof is somewhere in what the peer has sent."""
        assert self.end.handshake_hash is not None
        proof = capability.prove(not self.end.is_initiator, self.end.handshake_hash)
        return any(proof in frame for frame in self.said)


class _Hooks:
    """The hooks of one session, and what they have seen of each peer."""

    def __init__(self, app: _App, topic: int, kind: int) -> None:
        self.app = app
        self.topic = topic
        self.kind = kind
        self.peers: dict[Peer, bool] = {}  # whether active
        self.is_over = False

    def _happened(self, peer: Peer, session: Session, what: int) -> Any:
        if self.is_over:
            raise Finding(f"{session!r} was told of something after its end")
        if peer.is_pending or not self.app.line_of(peer).has_proved(_OURS[self.topic]):
            raise Finding(f"{peer!r} reached a hook without a proof")
        if self.kind & 7 == what:
            match self.kind >> 3 & 7:
                case 0:
                    raise Deliberate
                case 1 | 2:
                    return self.app.stage.hang()
                case 3:
                    session.destroy()
                case 4:
                    peer.stream.abort(Deliberate())
                case 5:
                    session.announce(peer, [(bytes(32), 1)])
                    session.lookup(peer)
                case 6:
                    self.app.destroy()
                case 7:
                    (session.inactive if session.is_active else session.active)()
        return None

    def on_peer_add(self, peer: Peer, session: Session) -> Any:
        if peer in self.peers:
            raise Finding(f"{peer!r} came twice")
        self.peers[peer] = False
        return self._happened(peer, session, 1)

    def on_peer_remove(self, peer: Peer, session: Session) -> Any:
        if self.peers.pop(peer, None) is True:
            raise Finding(f"{peer!r} went while it was active")
        return self._happened(peer, session, 2)

    def on_peer_active(self, peer: Peer, session: Session) -> Any:
        self._turn(peer, True)
        return self._happened(peer, session, 3)

    def on_peer_inactive(self, peer: Peer, session: Session) -> Any:
        self._turn(peer, False)
        return self._happened(peer, session, 4)

    def _turn(self, peer: Peer, is_active: bool) -> None:
        # A session that came later was not told of the peers before it.
        if self.peers.get(peer, not is_active) is is_active:
            raise Finding(f"{peer!r} turned {is_active} twice")
        self.peers[peer] = is_active

    def on_announce(self, writers: Any, peer: Peer, session: Session) -> Any:
        return self._happened(peer, session, 5)

    def on_lookup(self, lookup: Any, peer: Peer, session: Session) -> Any:
        return self._happened(peer, session, 6)

    def on_destroy(self, session: Session) -> Any:
        if self.is_over or not session.is_destroyed:
            raise Finding(f"{session!r} ended twice, or too early")
        self.is_over = True
        if self.kind & 7 == 7:
            raise Deliberate


class _App:
    def __init__(self, stage: Stage, scene: int) -> None:
        self.stage = stage
        self.lines = [_Line(stage, 0, bool(scene & 1)), _Line(stage, 1, not scene & 1)]
        self.woken = scene >> 1 & 7
        self.wakeup = Wakeup(self.on_wakeup, gc_interval=0.5, limits=_LIMITS)
        self.sessions: list[Session] = []
        self.is_over = False
        if not scene & 16:
            self.wakeup.add_stream(self.lines[0].end)

    def line_of(self, peer: Peer) -> _Line:
        return next(line for line in self.lines if line.end is peer.stream)

    def on_wakeup(self, id: bytes, _mux: Protomux) -> Any:
        topics = [index for index, topic in enumerate(_OURS) if topic.id == id]
        match self.woken:
            case 1 if topics:
                self.session(topics[0], 0, 0)
            case 2:
                raise Deliberate
            case 3:
                return self.stage.hang()
            case 4 if topics:
                return self.wake_later(topics[0])
            case 5:
                self.destroy()
        return None

    def destroy(self) -> None:
        self.is_over = True
        self.wakeup.destroy()

    async def wake_later(self, topic: int) -> None:
        await self.stage.hang()
        self.session(topic, 1, 0)

    def session(self, topic: int, flags: int, kind: int) -> None:
        if self.is_over or len(self.sessions) > 20:
            return
        topic %= len(TOPICS)
        secret, discovery_key = TOPICS[topic]
        session = self.wakeup.session(
            secret,
            _Hooks(self, topic, kind),
            active=not flags & 1,
            discovery_key=discovery_key,
        )
        self.sessions.append(session)
        if flags & 2:
            self.stage.loop.create_task(self.follow(session))
        if flags & 4:
            session.add_stream(self.lines[flags >> 3 & 1].end)

    async def follow(self, session: Session) -> None:
        async for event in session.events():
            if event.peer.is_pending:
                raise Finding(f"{event!r} of a pending peer")

    def act(self, session: Session, what: int, stream: WireEnd) -> None:
        match what % 8:
            case 0:
                session.active()
            case 1:
                session.inactive()
            case 2:
                session.broadcast_lookup()
            case 3:
                session.lookup_by_stream(stream, bytes(32))
            case 4:
                session.broadcast_announce([(bytes(32), len(self.sessions)), (b"\x01" * 32, 7)])
            case 5:
                session.announce_by_stream(stream, [(bytes([what]) * 32, what)])
            case 6:
                session.destroy()
            case 7:
                session.add_stream(stream)

    def do(self, step: Step) -> None:
        line = self.lines[step.op >> 7]
        match step.among(Op):
            case Op.FRAME:
                line.say(step.data)
            case Op.QUIET:
                self.stage.quiet()
            case Op.TICK:
                self.stage.tick()
            case Op.SESSION:
                self.session(step.at(0), step.at(1), step.at(2))
            case Op.ACT if self.sessions:
                session = self.sessions[step.at(0) % len(self.sessions)]
                self.act(session, step.at(1), line.end)
            case Op.RELEASE:
                self.stage.release(step.at(0), step.at(1))
            case Op.LOSE:
                line.end.other.abort()
            case Op.DESTROY:
                self.destroy()
            case Op.TIME:
                self.stage.pass_time(step.at(0) / 4)
            case Op.ADD_STREAM if not self.is_over:
                self.wakeup.add_stream(line.end)
            case Op.WHEN_WOKEN:
                self.woken = step.at(0)
            case Op.FULL:
                line.fill(bool(step.at(0)))
            case op:
                self.act_as_peer(line, op, step)

    def act_as_peer(self, line: _Line, op: int, step: Step) -> None:
        number = step.at(0)
        match op:
            case Op.PEER_OPENS:
                assert line.end.handshake_hash is not None
                topic = _OURS[step.at(1) % len(_OURS)]
                prover = _KNOWN[step.at(2) % len(_KNOWN)]
                role = line.end.is_initiator is bool(step.at(2) & 4)
                proof = prover.prove(role, line.end.handshake_hash)
                handshake = messages.Handshake(step.at(2) >> 6, proof, bool(step.at(3) & 1))
                body = open_body(
                    number, messages.PROTOCOL, topic.id, messages.handshake.encode(handshake)
                )
                line.say(encode_frame(CONTROL, body))
            case Op.PEER_SAYS:
                line.say(encode_frame(number, bytes([step.at(1) % 4]) + step.data[2:]))
            case Op.PEER_ANNOUNCES:
                writers = [(bytes([key]) * 32, key) for key in step.data[1:]]
                line.say(encode_frame(number, b"\x01" + messages.announce.encode(writers)))
            case Op.PEER_ANSWERS:
                body = (reject_body if number & 2 else close_body)(step.at(1))
                line.say(encode_frame(CONTROL, body))
            case Op.PEER_BATCH:
                bodies = [(frame[0], frame[1:]) for frame in line.said if len(frame) > 1]
                if bodies:
                    line.say(encode_batch(bodies[-1 - number % 64 :]))

    def finish(self) -> None:
        """Lose the streams, end the Wakeup, and look at what is left."""
        for line in self.lines:
            line.end.other.abort()
        self.stage.quiet()
        while self.stage.waiting:
            self.stage.release(0, 0)
            self.stage.quiet()
        for line in self.lines:
            check_error(line.end.error)
            check_mux_is_empty(line.mux)
        for topic in self.wakeup.topics.values():
            if topic.peers or topic.pending_peers:
                raise Finding(f"peers left: {topic.peers} {topic.pending_peers}")
        stats = self.wakeup.stats
        if list(self.wakeup.muxes) or stats.peers_added != stats.peers_removed:
            raise Finding(f"left: {self.wakeup!r} {stats!r}")
        self.wakeup.destroy()
        if self.wakeup.topics or stats.sessions_opened != stats.sessions_closed:
            raise Finding(f"left: {self.wakeup!r} {stats!r}")


def run(data: bytes) -> None:
    scene, steps = script.parse(data)
    with stage() as up:
        app = _App(up, scene)
        for step in steps:
            try:
                app.do(step)
            except ProtomuxError as error:
                raise Finding(f"{error!r} out of {step}") from error
        app.finish()
