"""`replay`: feeds the frames that came in to a fresh mux, and shows what that does.

Every recorded stream gets a `Wakeup` of its own, on a stream with the recorded role and handshake
hash, so that the peer's proofs are as good as they were. What the recording side sent is not
repeated: what the fresh mux answers is its own.

All frames come at once, so the rates that hold for peers are lifted: they would only make a replay
last as long as it did.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from protomux.dissect import (
    Conversation,
    Direction,
    Entry,
    Frame,
    Problem,
    StreamEnd,
    StreamStart,
)
from protomux.streams.base import BaseStream
from protomux_wakeup import Limits, Wakeup
from protomux_wakeup.cli.anatomy import ARROWS, brief
from protomux_wakeup.cli.inspect import say_damage, say_end, say_start
from protomux_wakeup.cli.process import Exit, Failure
from protomux_wakeup.cli.recording import Form
from protomux_wakeup.cli.report import Reporter
from protomux_wakeup.cli.values import count_of
from protomux_wakeup.cli.witness import Witness
from protomux_wakeup.limits import Rate

__all__ = ["ReplayedStream", "replay"]

_TICKS: Final = 8
"""Loop ticks in which a mux is done with what it has read, without a clock or a socket."""
_MOST_TURNS: Final = 100_000
"""Loop ticks in which a mux reads a frame that has the most messages, twenty times over."""

_ALL: Final = Rate(2**53, 2**53)
_LIMITS: Final = Limits(announces=_ALL, entries=_ALL, lookups=_ALL, asked_topics=_ALL)


class ReplayedStream(BaseStream):
    """A `FramedStream` whose peer is a recording.

    Attributes:
        is_initiator, handshake_hash, remote_public_key: those of the recorded stream.
        error: what ended it; None while it lives, and when the recording ended it.
    """

    def __init__(self, start: StreamStart, on_write: Callable[[bytes], object]) -> None:
        """`on_write(frame)` is called with what the mux sends."""
        super().__init__(asyncio.get_running_loop())
        self.is_initiator = start.is_initiator
        self.handshake_hash: bytes | None = start.handshake_hash
        self.remote_public_key: bytes | None = start.remote_public_key
        self._on_write = on_write
        self._waiting: deque[bytes] = deque()

    @property
    def is_gone(self) -> bool:
        """The mux has ended it, or the recording."""
        return self._is_lost

    @property
    def unread(self) -> int:
        """Frames that the mux did not want to read yet."""
        return len(self._waiting)

    async def settle(self) -> None:
        """Wait until the mux is done with what came in, or will not be without something else."""
        for _ in range(_MOST_TURNS):
            if self._is_lost or not (self._is_paused or self._waiting):
                break
            await asyncio.sleep(0)
        for _ in range(_TICKS):
            await asyncio.sleep(0)

    def feed(self, frame: bytes) -> None:
        """A frame comes in."""
        self._waiting.append(frame)
        self._pump_soon()

    def end(self) -> None:
        """The peer is gone."""
        self._lose(None)

    def write(self, frame: bytes) -> bool:
        """Tell of `frame`; the peer hears nothing."""
        if not self._is_lost:
            self._on_write(frame)
        return not self._is_lost

    def close(self) -> None:
        """End the stream after this loop tick."""
        self._end_soon(self.end)

    def abort(self, error: Exception | None = None) -> None:
        """End the stream with `error`."""
        self._loop.call_soon(self._lose, error)

    def _pump(self) -> None:
        while self._waiting and self._can_deliver:
            self._deliver(self._waiting.popleft())


class _Replay:
    """One stream, replayed."""

    def __init__(self, report: Reporter, start: StreamStart, capability: bytes | None) -> None:
        self._report = report
        self._number = start.stream
        self._conversation = Conversation()
        self._stream = ReplayedStream(start, self._sent)
        self._frames = 0
        self._is_over = False
        witness = Witness(report)
        self._wakeup = Wakeup(witness.on_wakeup, limits=_LIMITS)
        if capability is not None:
            self._wakeup.session(capability, witness)
        self._wakeup.add_stream(self._stream)

    async def receive(self, frame: Frame) -> str | None:
        """Let a frame come in; return the error if it ends the stream."""
        if self._is_over:
            return None
        self._frames += 1
        self._say("frame_received", frame.direction, frame.data, {"number": self._frames})
        self._stream.feed(frame.data)
        await self._stream.settle()
        if not self._stream.is_gone:
            return None
        self._is_over = True
        error = self._stream.error
        text = "closed" if error is None else f"{type(error).__name__}: {error}"
        self._report.say(
            "stream_destroyed",
            f"{self._number}, by frame {self._frames}: {text}",
            {"stream": self._number, "number": self._frames, "error": text},
            label="destroyed",
        )
        return f"stream {self._number}, frame {self._frames} of those that came in: {text}"

    async def end(self) -> None:
        """The peer is gone, as far as the recording knows."""
        if self._stream.unread:
            self._report.warn(
                f"stream {self._number}: reading is paused, and "
                f"{count_of(self._stream.unread, 'frame')} left unread"
            )
        await self._stream.settle()
        self._stream.end()
        await self._stream.settle()
        self._wakeup.destroy()

    def _sent(self, frame: bytes) -> None:
        self._say("frame_sent", Direction.OUT, frame, {})

    def _say(self, event: str, direction: Direction, data: bytes, fields: dict[str, int]) -> None:
        said = brief(self._conversation.read(direction, data))
        self._report.say(
            event,
            f"{ARROWS[direction]} {said}",
            {"stream": self._number, **fields, "frame": data.hex(), "summary": said},
            label="frame received" if direction is Direction.IN else "frame sent",
        )


class _Player:
    """The streams of a recording, by number."""

    def __init__(self, report: Reporter, form: Form, capability: bytes | None) -> None:
        self._report = report
        self._form = form
        self._capability = capability
        self._replays: dict[int, _Replay] = {}
        self.errors: list[str] = []

    async def play(self, entry: Entry) -> None:
        """Let happen what was recorded."""
        match entry:
            case StreamStart():
                await self._end(entry.stream)
                say_start(self._report, entry)
                self._begin(entry)
            case Frame(direction=Direction.IN):
                if entry.stream not in self._replays:
                    self._begin(StreamStart(entry.stream, 0.0, False, bytes(64), bytes(32)))
                    if self._capability is not None:
                        self._report.warn(
                            f"a {self._form.value} file tells no handshake hash: no proof can be "
                            "right, so the peer will not be let into the topic"
                        )
                error = await self._replays[entry.stream].receive(entry)
                if error is not None:
                    self.errors.append(error)
            case StreamEnd():
                say_end(self._report, entry)
                await self._end(entry.stream)

    async def end(self) -> None:
        """The recording is over."""
        for number in list(self._replays):
            await self._end(number)

    def _begin(self, start: StreamStart) -> None:
        self._replays[start.stream] = _Replay(self._report, start, self._capability)

    async def _end(self, number: int) -> None:
        replay = self._replays.pop(number, None)
        if replay is not None:
            await replay.end()


async def replay(
    report: Reporter,
    form: Form,
    entries: Iterable[Entry | Problem],
    capability: bytes | None = None,
    only: int | None = None,
) -> Exit:
    """Replay a recording; Failure if what came in ends a stream in an error.

    Args:
        report: where events go.
        form: of the file that the entries are from.
        entries: what is in it; read in the event loop, so from no file that has to be waited for.
        capability: of the topic that is there; None: all topics are unknown.
        only: number of the one stream to replay.
    """
    player = _Player(report, form, capability)
    is_damaged = False
    has_any = False
    for entry in entries:
        if isinstance(entry, Problem):
            is_damaged = True
            say_damage(report, form, entry)
        elif only is None or entry.stream == only:
            has_any = True
            await player.play(entry)
    await player.end()
    if only is not None and not has_any:
        raise Failure(f"expected a stream that is in the recording, got {only}", Exit.USAGE)
    if player.errors:
        raise Failure("; ".join(player.errors))
    return Exit.FAILED if is_damaged else Exit.DONE
