"""A SecretStream over a transport that carries whatever the input says: arbitrary bytes, and those
of a genuine peer, cut anywhere, changed, or out of order.

All keys are fixed, so that what the originals once sent under them is understood here too.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import Any, Final

from fuzz.harness import keys, script
from fuzz.harness.script import Step
from fuzz.harness.stage import Deliberate, Finding, Stage, check_error, stage
from protomux import ProtomuxError
from protomux.streams import SecretStream
from protomux.streams.noise import PATTERNS

__all__ = ["MAX_SIZE", "OPS", "Op", "run"]

MAX_SIZE: Final = 4096


class Op(IntEnum):
    """What a step does; its data says the rest."""

    BYTES = 0  # these bytes arrive
    QUIET = 1  # all happens that happens by itself
    ARRIVE = 2  # that many of the bytes that the peer has written, u16
    CHANGE = 3  # one of the bytes that the peer has written: where u16, how
    PEER_WRITES = 4  # a frame
    WRITE = 5  # a frame of ours
    READING = 6  # 0: pause
    WRITING = 7  # 0: the transport is full
    CLOSE = 8  # 1: abort
    PEER_CLOSES = 9  # 1: abort, 2: the transport is lost
    TIME = 10  # seconds
    RELEASE = 11  # the firewall
    KEEP_ALIVE = 12  # seconds
    DROP = 13  # that many of the bytes that the peer has written


OPS: Final = Op


class _Transport(asyncio.Transport):
    """One end of a pipe. What is written waits in `unread` of the other end."""

    other: _Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: SecretStream) -> None:
        super().__init__()
        self.loop = loop
        self.protocol = protocol
        self.unread = bytearray()
        self.has_ended = False
        self.end_is_seen = False
        self.is_lost = False
        self.is_paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.is_lost and not self.other.is_lost:
            self.other.unread += data

    def write_eof(self) -> None:
        self.has_ended = True

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0 if self.other.is_lost else len(self.other.unread)

    def is_closing(self) -> bool:
        return self.is_lost

    def is_reading(self) -> bool:
        return not self.is_paused

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def close(self) -> None:
        self.has_ended = True
        self.lose(None)

    def abort(self) -> None:
        self.has_ended = True
        self.lose(None)

    def lose(self, error: Exception | None) -> None:
        if not self.is_lost:
            self.is_lost = True
            self.unread.clear()
            self.loop.call_soon(self.protocol.connection_lost, error)

    def receive(self, size: int) -> bool:
        """Let so many bytes arrive; tell whether anything did."""
        if self.is_lost or self.is_paused:
            return False
        data = bytes(self.unread[:size])
        if data:
            del self.unread[:size]
            self.protocol.data_received(data)
            return True
        if self.other.has_ended and not self.end_is_seen:
            self.end_is_seen = True
            self.protocol.eof_received()
            return True
        return False


class _Receiver:
    """Who gets the frames."""

    def __init__(self, stream: SecretStream, *, fails: bool) -> None:
        self.stream = stream
        self.fails = fails
        self.frames: list[bytes] = []
        self.ends = 0
        stream.set_receiver(self)

    def frame_received(self, frame: bytes) -> None:
        if self.ends or not self.stream.handshake_hash or not self.stream.remote_public_key:
            raise Finding("a frame outside the life of its stream")
        self.frames.append(frame)
        if self.fails and frame == b"!":
            raise Deliberate
        if self.fails and frame == b"w":
            self.stream.write(frame)
        if self.fails and frame == b"c":
            self.stream.close()

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        self.ends += 1
        check_error(error)
        if self.ends > 1 or error is not self.stream.error:
            raise Finding(f"lost twice, or with another error: {error!r}")


class _Side:
    def __init__(self, stage: Stage, pattern: str, is_initiator: bool, **options: Any) -> None:
        self.keys = keys.INITIATOR if is_initiator else keys.RESPONDER
        knows_peer = is_initiator and pattern != "XX"
        self.stream = SecretStream(
            is_initiator,
            key_pair=self.keys.static,
            remote_public_key=keys.RESPONDER.static.public_key if knows_peer else None,
            pattern=pattern,
            loop=stage.loop,
            **options,
        )
        self.transport = _Transport(stage.loop, self.stream)


class _Scene:
    def __init__(self, stage: Stage, scene: int) -> None:
        self.stage = stage
        pattern = PATTERNS[(scene >> 1) % len(PATTERNS)]
        options: dict[str, Any] = {"timeout": 60.0 * (scene >> 3 & 1)}
        if scene & 16:
            options["firewall"] = self.firewall
        self.ours = _Side(stage, pattern, bool(scene & 1), **options)
        self.peer = _Side(stage, pattern, not scene & 1)
        self.sides = (self.ours, self.peer)
        self.ours.transport.other = self.peer.transport
        self.peer.transport.other = self.ours.transport
        self.receiver = _Receiver(self.ours.stream, fails=bool(scene & 32))
        self.written: list[bytes] = []
        self.foreign = False
        _Receiver(self.peer.stream, fails=False)
        for side in self.sides:
            with keys.fixed(side.keys):
                side.stream.connection_made(side.transport)

    def firewall(self, key: bytes) -> Any:
        if len(key) != 32:
            raise Finding(f"a key of {len(key)} bytes")
        return self.stage.hang()

    def quiet(self) -> None:
        """Let all bytes arrive, at the peer first, and all happen that follows from it."""
        for _ in range(1000):
            if not any([self.tick(), *(self.arrive(side, 1 << 24) for side in self.sides[::-1])]):
                return
        raise Finding("not quiet after 1,000 rounds")

    def tick(self) -> bool:
        # Only a responder has a key still to choose once the handshake has begun.
        with keys.fixed(keys.RESPONDER):
            return self.stage.tick()

    def arrive(self, side: _Side, size: int) -> bool:
        with keys.fixed(side.keys):
            return side.transport.receive(size)

    def do(self, step: Step) -> None:
        ours, peer = self.ours, self.peer
        wire = ours.transport.unread
        number = int.from_bytes(step.data[:2], "little")
        match step.among(Op):
            case Op.BYTES:
                self.foreign = True
                # They come in the place of the peer's, which would be as foreign after them.
                wire[:] = step.data
                self.arrive(ours, len(step.data))
            case Op.QUIET:
                self.quiet()
            case Op.ARRIVE:
                self.arrive(ours, number)
                self.tick()
            case Op.CHANGE:
                if wire:
                    wire[number % len(wire)] ^= step.at(2)
            case Op.DROP:
                del wire[: step.at(0)]
            case Op.PEER_WRITES:
                self.written.append(step.data)
                peer.stream.write(step.data)
            case Op.WRITE:
                ours.stream.write(step.data)
            case Op.READING:
                (ours.stream.resume_reading if step.at(0) else ours.stream.pause_reading)()
            case Op.WRITING:
                self.set_writable(bool(step.at(0)))
            case Op.CLOSE:
                (ours.stream.abort if step.at(0) & 1 else ours.stream.close)()
            case Op.PEER_CLOSES:
                self.close_peer(step.at(0))
            case Op.TIME:
                with keys.fixed(keys.RESPONDER):
                    self.stage.pass_time(step.at(0))
            case Op.RELEASE:
                self.stage.release(0, step.at(0))
            case Op.KEEP_ALIVE:
                ours.stream.set_keep_alive(step.at(0))

    is_writable = True

    def set_writable(self, is_writable: bool) -> None:
        if is_writable is not self.is_writable and not self.ours.transport.is_lost:
            self.is_writable = is_writable
            (self.ours.stream.resume_writing if is_writable else self.ours.stream.pause_writing)()

    def close_peer(self, how: int) -> None:
        if how & 2:
            self.ours.transport.lose(OSError("the line is dead"))
        elif how & 1:
            self.peer.stream.abort()
        else:
            self.peer.stream.close()

    def finish(self) -> None:
        while self.stage.waiting:
            self.stage.release(0, 0)
            self.quiet()
        self.quiet()
        for side in self.sides:
            side.transport.lose(None)
        with keys.fixed(keys.RESPONDER):
            self.stage.quiet()
        check_error(self.ours.stream.error)
        if self.receiver.ends != 1:
            raise Finding(f"told {self.receiver.ends} times that the stream is lost")
        if self.foreign:
            return
        # However the bytes were cut and changed: what got through is what was written, in order.
        # (Empty frames are dropped while keep-alive is on.)
        written = iter(self.written)
        for frame in self.receiver.frames:
            if next((one for one in written if one or not frame), None) != frame:
                raise Finding(f"{frame!r} was not written, or not then")


def run(data: bytes) -> None:
    scene, steps = script.parse(data)
    with stage() as up:
        played = _Scene(up, scene)
        for step in steps:
            try:
                played.do(step)
            except ProtomuxError as error:
                raise Finding(f"{error!r} out of {step}") from error
        played.finish()
