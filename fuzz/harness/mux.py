"""One mux against a peer that sends whatever the input says, at any moment of its life.

The application has channels and pair callbacks of every kind: plain, async, raising, and such
that reach back into the mux.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

from fuzz.harness import script
from fuzz.harness.script import Step
from fuzz.harness.stage import Deliberate, Finding, Stage, check_error, check_mux_is_empty, stage
from protomux import Channel, Limits, Protomux, ProtomuxError
from protomux.encoding import array, json, raw, string, uint
from protomux.frames import (
    CONTROL,
    close_body,
    encode_batch,
    encode_frame,
    open_body,
    reject_body,
)

__all__ = ["KEYS", "MAX_SIZE", "OPS", "Op", "run"]

MAX_SIZE: Final = 1024

KEYS: Final = (
    ("alpha", None),
    ("alpha", b"1"),
    ("beta", b"\xbb" * 32),
    ("sync", None),
    ("async", None),
    ("raise", None),
    ("old", None),
    ("new", None),
)
"""What both sides may open. Opened here, `new` is also known as `old`."""

_LIMITS: Final = Limits(
    held_size=2000,
    channels=8,
    waiting_opens=5,
    waiting_size=200,
    name_size=40,
    unsent_size=500,
    batch_size=600,
    frame_size=4096,
)


class Op(IntEnum):
    """What a step does; its data says the rest."""

    FRAME = 0  # the peer sends these bytes
    QUIET = 1  # all happens that happens by itself
    TICK = 2
    CREATE = 3  # key, 1: open it, 2: it need not be the only one, 4: wait for it
    OPEN = 4  # channel
    SEND = 5  # channel, type, value
    CLOSE = 6  # channel
    RELEASE = 7  # which hanging hook, how
    PAIR = 8  # key, kind of callback
    CORK = 9  # 0: uncork
    FULL = 10  # 0: the stream takes more
    LOSE = 11  # 1: in order
    DESTROY = 12
    TIME = 13  # seconds
    PEER_OPENS = 14  # number, key, handshake
    PEER_SAYS = 15  # number, type, payload
    PEER_ANSWERS = 16  # 1: close, 2: reject; number
    PEER_BATCH = 17  # that many of the frames before it, as one


OPS: Final = Op


class _Tracked:
    """A channel and what has been seen of it."""

    def __init__(self, app: _App) -> None:
        self.app = app
        self.channel: Channel
        self.opens = 0
        self.closes = 0
        self.destroys = 0

    def on_open(self, handshake: object, channel: Channel) -> Any:
        self.opens += 1
        if self.opens > 1 or self.closes:
            raise Finding(f"{channel!r} opened twice, or after it closed")
        if handshake == 7:
            raise Deliberate
        if handshake == 8:
            channel.close()
        return self.app.stage.hang() if handshake == 9 else None

    def on_close(self, is_remote: bool, channel: Channel) -> Any:
        self.closes += 1
        if self.closes > 1 or not channel.is_closed:
            raise Finding(f"{channel!r} closed twice, or too early")
        if self.app.kind == 1:
            self.app.create(0, 1)
        if self.app.kind == 2:
            raise Deliberate
        return self.app.stage.hang() if self.app.kind == 3 else None

    def on_destroy(self, channel: Channel) -> None:
        self.destroys += 1
        if self.destroys > 1 or not self.closes:
            raise Finding(f"{channel!r} destroyed twice, or before it closed")

    def on_message(self, value: Any, channel: Channel) -> Any:
        if self.opens != 1 or self.closes:
            raise Finding(f"a message for {channel!r}")
        match value:
            case b"!":
                raise Deliberate
            case b"x":
                channel.close()
            case b"d":
                self.app.mux.destroy()
            case b"c":
                self.app.create(0, 3)
            case b"r":
                self.app.stage.tick()  # a stream that delivers from inside a hook
            case list():
                channel.messages[2].send(value)
            case str() | int():
                return self.app.stage.hang()
        return None

    def on_drain(self, channel: Channel) -> None:
        if channel.is_closed:
            raise Finding(f"{channel!r} drained after it closed")
        channel.messages[4].send(b"more")


class _App:
    """The application of a mux."""

    def __init__(self, stage: Stage, scene: int) -> None:
        self.stage = stage
        self.kind = scene >> 1 & 3
        self.end = stage.end(bool(scene & 1))
        self.mux = Protomux(self.end, loop=stage.loop, limits=_LIMITS)
        self.tracked: list[_Tracked] = []
        self.said: list[bytes] = []
        self.mux.add_close_callback(check_error)
        for index, kind in ((3, 0), (4, 1), (5, 2)):
            self.pair(index, kind)

    def create(self, index: int, flags: int) -> None:
        if len(self.tracked) > 40:
            return
        protocol, id = KEYS[index % len(KEYS)]
        tracked = _Tracked(self)
        channel = self.mux.create_channel(
            protocol,
            id,
            aliases=["old"] if protocol == "new" else (),
            unique=not flags & 2,
            handshake=uint if protocol == "beta" else None,
            messages=[
                (string, tracked.on_message),
                (uint, tracked.on_message),
                (array(uint), tracked.on_message),
                None,
                (raw, tracked.on_message),
                (json, tracked.on_message),
            ],
            on_open=tracked.on_open,
            on_close=tracked.on_close,
            on_destroy=tracked.on_destroy,
            on_drain=tracked.on_drain,
        )
        if channel is None:
            return
        tracked.channel = channel
        self.tracked.append(tracked)
        if flags & 4:
            self.stage.loop.create_task(channel.wait_opened())
            self.stage.loop.create_task(channel.wait_closed())
        if flags & 1:
            self.open(tracked)

    def open(self, tracked: _Tracked) -> None:
        if "created" in repr(tracked.channel):
            tracked.channel.open(300)

    def send(self, tracked: _Tracked, type: int, value: bytes) -> None:
        if "created" in repr(tracked.channel):
            return
        messages = tracked.channel.messages
        match type % 6:
            case 0:
                messages[0].send(value.decode("latin-1"))
            case 1:
                messages[1].send(len(value))
            case 2:
                messages[2].send(list(value))
            case 5:
                messages[5].send([len(value)])
            case _:
                messages[4].send(value)

    def pair(self, index: int, kind: int) -> None:
        protocol, id = KEYS[index % len(KEYS)]

        def now(_id: bytes | None) -> None:
            if kind == 2:
                raise Deliberate
            if kind != 3:
                self.create(index, 0 if kind == 4 else 3)

        async def later(id: bytes | None) -> None:
            await self.stage.hang()
            now(id)

        if self.end.is_gone:
            return
        if kind == 7:
            self.mux.unpair(protocol, id)
        else:
            self.mux.pair(protocol, id, callback=later if kind in (1, 5) else now)

    def do(self, step: Step) -> None:
        op = step.among(Op)
        if op in (Op.OPEN, Op.SEND, Op.CLOSE):
            if not self.tracked:
                return
            tracked = self.tracked[step.at(0) % len(self.tracked)]
            if op == Op.OPEN:
                self.open(tracked)
            elif op == Op.SEND:
                self.send(tracked, step.at(1), step.data[2:])
            else:
                tracked.channel.close()
            return
        match op:
            case Op.FRAME:
                self.say(step.data)
            case Op.QUIET:
                self.stage.quiet()
            case Op.TICK:
                self.stage.tick()
            case Op.CREATE:
                self.create(step.at(0), step.at(1))
            case Op.RELEASE:
                self.stage.release(step.at(0), step.at(1))
            case Op.PAIR:
                self.pair(step.at(0), step.at(1) % 8)
            case Op.CORK:
                self.cork(bool(step.at(0)))
            case Op.FULL:
                self.fill(bool(step.at(0)))
            case Op.LOSE:
                self.lose(bool(step.at(0)))
            case Op.DESTROY:
                self.mux.destroy()
            case Op.TIME:
                self.stage.pass_time(step.at(0))
            case _:
                self.act_as_peer(op, step)

    corks = 0

    def cork(self, is_on: bool) -> None:
        if is_on:
            self.corks += 1
            self.mux.cork()
        elif self.corks:
            self.corks -= 1
            self.mux.uncork()

    def fill(self, is_full: bool) -> None:
        if self.end.is_gone or is_full is self.end.is_full:
            return
        self.end.is_full = is_full
        if is_full:
            self.mux.pause_writing()
        else:
            self.mux.resume_writing()

    def lose(self, in_order: bool) -> None:
        if not in_order:
            self.end.other.abort()
        elif not self.end.is_gone:
            self.end.abort()

    def say(self, frame: bytes) -> None:
        if not self.end.is_gone:
            self.said.append(frame)
            self.end.inbox.append(frame)

    def act_as_peer(self, op: int, step: Step) -> None:
        match op:
            case Op.PEER_OPENS:
                protocol, id = KEYS[step.at(1) % len(KEYS)]
                body = open_body(step.at(0), protocol, id, step.data[2:])
                self.say(encode_frame(CONTROL, body))
            case Op.PEER_SAYS:
                self.say(encode_frame(step.at(0), bytes([step.at(1)]) + step.data[2:]))
            case Op.PEER_ANSWERS:
                body = (reject_body if step.at(0) & 2 else close_body)(step.at(1))
                self.say(encode_frame(CONTROL, body))
            case Op.PEER_BATCH:
                bodies = [(frame[0], frame[1:]) for frame in self.said if len(frame) > 1]
                if bodies:
                    self.say(encode_batch(bodies[-1 - step.at(0) % 64 :]))

    def finish(self) -> None:
        """Lose the stream, and look at what is left."""
        self.end.other.abort()
        self.stage.quiet()
        while self.stage.waiting:
            self.stage.release(0, 0)
            self.stage.quiet()
        check_error(self.end.error)
        check_mux_is_empty(self.mux)
        for tracked in self.tracked:
            if (tracked.closes, tracked.destroys) != (1, 1):
                raise Finding(f"{tracked.channel!r} closed {tracked.closes} times")


def run(data: bytes) -> None:
    scene, steps = script.parse(data)
    with stage() as up:
        app = _App(up, scene)
        for step in steps:
            try:
                app.do(step)
            except ProtomuxError as error:
                if step.among(Op) not in (Op.SEND, Op.OPEN, Op.CREATE):
                    raise Finding(f"{error!r} out of {step.among(Op).name}") from error
        app.finish()
