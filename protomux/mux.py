"""Protomux: many channels over one framed stream. Knows the stream and the application.

What channels send is collected and leaves as one frame at the end of the loop tick (`outbox`);
what comes in is taken apart by the `intake` and goes to the `switchboard`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from protomux.asking import PairCallback
from protomux.channel import Channel, Handlers, MessageSpec
from protomux.encoding import BytesLike, Encoding, string
from protomux.errors import EncodingError
from protomux.intake import Intake
from protomux.limits import Limits
from protomux.link import OwnLink
from protomux.outbox import FrameWriter
from protomux.pairing import Key
from protomux.streams.base import FramedStream
from protomux.switchboard import Switchboard

__all__ = ["Protomux"]

_log = logging.getLogger("protomux")


def _key(protocol: str, id: BytesLike | None) -> Key:
    """Return the names of a place as the tables know them; EncodingError if they are none."""
    if not (isinstance(protocol, str) and protocol.isascii()):
        string.encode(protocol)
    if id is not None and not isinstance(id, bytes | bytearray | memoryview):
        raise EncodingError(f"expected an id of bytes or None, got {id!r}")
    return protocol, bytes(id) if id else None


class Protomux:
    """The multiplexer of one framed stream.

    Attributes:
        stream: the stream it runs on, a `protomux.streams.FramedStream`.
        loop: the event loop it lives on.
        limits: the bounds that it keeps.

    Iterating a mux gives its channels that are opened here and not closed.
    """

    __slots__ = (
        "__dict__",  # for the application's own attributes
        "__weakref__",
        "_board",
        "_close_callbacks",
        "_drained_up_to",
        "_error",
        "_intake",
        "_writer",
        "limits",
        "loop",
        "stream",
    )

    def __init__(
        self,
        stream: FramedStream,
        *,
        limits: Limits = Limits(),
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Become the receiver of `stream`.

        `loop` is the event loop whose ticks gather messages into batches, and which runs async
        hooks: the running one unless given. Raises ValueError if the stream has a receiver
        already: use `Protomux.of` where several parts of an application share a stream.
        """
        if stream.receiver is not None:
            raise ValueError(f"expected a stream without a receiver, got {stream!r}")
        self.stream = stream
        self.loop = asyncio.get_running_loop() if loop is None else loop
        self.limits = limits
        self._error: Exception | None = None
        self._drained_up_to = 0
        self._close_callbacks: list[Callable[[Exception | None], object]] = []
        fail = self.destroy
        self._writer = FrameWriter(stream, self._drain, fail, limits, self.loop)
        self._intake = Intake(stream, fail, limits, self.loop)
        self._board = Switchboard(self._writer, self._intake, fail, limits, self.loop)
        self._intake.receive = self._board.receive
        stream.set_receiver(self)

    @classmethod
    def of(cls, stream: FramedStream | Protomux, *, limits: Limits = Limits()) -> Protomux:
        """Return the one mux of `stream`, made with `limits` if there is none yet."""
        if isinstance(stream, Protomux):
            return stream
        receiver = stream.receiver
        return receiver if isinstance(receiver, Protomux) else cls(stream, limits=limits)

    def __repr__(self) -> str:
        state = "gone" if self._board.is_gone else f"{len(self._board)} channels"
        return f"<Protomux {state} on {self.stream!r}>"

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._board)

    @property
    def drained(self) -> bool:
        """False while the stream does not keep up, until `on_drain` of the channels."""
        return self._writer.drained

    def is_idle(self) -> bool:
        """Tell whether no channel is open here and no open of ours waits for its answer."""
        return self._board.is_idle

    def is_opened(self, protocol: str, id: BytesLike | None = None) -> bool:
        """Tell whether a channel of (protocol, id) is opened here and not closed."""
        place = self._board.places.find(*_key(protocol, id))
        return place is not None and place.opened > 0

    def last_channel(self, protocol: str, id: BytesLike | None = None) -> Channel | None:
        """Return the channel of (protocol, id) that was opened last, unless it has closed."""
        place = self._board.places.find(*_key(protocol, id))
        return place.last.channel if place is not None and place.last is not None else None

    def pair(
        self,
        protocol: str,
        id: BytesLike | None = None,
        *,
        callback: PairCallback,
    ) -> None:
        """Call `callback(id)`, plain or async, when the peer opens what nobody here waits for.

        Without an id it serves every id of the protocol that has no callback of its own. The
        peer is rejected if there is still no channel for it when the callback has ended; a
        callback that raises destroys the stream. An async one is cancelled when it takes longer
        than `Limits.waiting_time`, and when the stream is gone.
        """
        key = _key(protocol, id)
        if not self._board.is_lost:
            self._board.pair_callbacks.set(key, callback)

    def unpair(
        self,
        protocol: str,
        id: BytesLike | None = None,
        *,
        callback: PairCallback | None = None,
    ) -> None:
        """Forget the callback of (protocol, id), or only if it is `callback` still.

        Where it is async and has not ended, it is cancelled, and what it was asked about rejected.
        """
        self._board.stop_asking(self._board.pair_callbacks.remove(_key(protocol, id), callback))

    def create_channel(
        self,
        protocol: str,
        id: BytesLike | None = None,
        *,
        aliases: Iterable[str] = (),
        unique: bool = True,
        handshake: Encoding[Any] | None = None,
        messages: Handlers | Iterable[MessageSpec] = (),
        user_data: Any = None,
        on_open: Callable[[Any, Channel], object] | None = None,
        on_close: Callable[[bool, Channel], object] | None = None,
        on_destroy: Callable[[Channel], object] | None = None,
        on_drain: Callable[[Channel], object] | None = None,
    ) -> Channel | None:
        """Create a channel; nothing is sent before its `open()`.

        Args:
            protocol: name that both sides know, with `aliases` as further names of it.
            id: binary id; None and no bytes at all are the same.
            unique: return None if a channel of (protocol, id) is opened here already.
            handshake: encoding of what goes along with the open, both ways.
            messages: the message types in order, each an encoding, (encoding, on_message), the
                keyword arguments of `Channel.add_message`, or None for one that is skipped. Who
                creates many channels of one protocol makes `Handlers.of` them once.
            on_open: on_open(handshake, channel) when both sides are open.
            on_close: on_close(is_remote, channel).
            on_destroy: on_destroy(channel) when the last hook has ended after the close.
            on_drain: on_drain(channel) when the stream keeps up again after a False from `send`.

        Returns None too when the stream is gone. Raises EncodingError for a name or an id of
        the wrong type.
        """
        if self._board.is_gone:
            return None
        _, key = _key(protocol, id)
        aliases = tuple(aliases)
        link = OwnLink(self._board)
        link.channel = Channel(
            link,
            protocol,
            key,
            aliases=aliases,
            handshake=handshake,
            messages=messages,
            user_data=user_data,
            on_open=on_open,
            on_close=on_close,
            on_destroy=on_destroy,
            on_drain=on_drain,
        )
        return link.channel if self._board.add(link, unique=unique) else None

    def cork(self) -> None:
        """Hold back what is sent until `uncork()` has been called as often."""
        self._writer.cork()

    def uncork(self) -> None:
        """Undo one `cork()`; after the last, all that was held leaves with this loop tick."""
        self._writer.uncork()

    @contextmanager
    def corked(self) -> Iterator[None]:
        """Hold back what is sent inside the `with` block, also over several loop ticks."""
        self.cork()
        try:
            yield
        finally:
            self.uncork()

    def destroy(self, error: Exception | None = None) -> None:
        """Abort the stream at once; its receiver and its waiters are told of `error`.

        To flush and close in order, use `mux.stream.close()`.
        """
        if not self._board.is_gone:
            self._board.is_gone = True
            self._writer.close()
            self._intake.close()
            self.stream.abort(error)

    def pause_reading(self, seconds: float) -> None:
        """Take nothing more of the peer for so many seconds, also of a batch in hand.

        For a protocol whose peer says too much. Where it is asked several times, the last to end
        counts; a peer that is paused for `Limits.paused_time` on end is destroyed.
        """
        self._intake.pause_for(seconds)

    def add_close_callback(self, callback: Callable[[Exception | None], object]) -> None:
        """Call `callback(error)` once when the stream is gone and all channels are closed.

        If that has happened already, it is called in the next loop tick.
        """
        if self._board.is_lost:
            self.loop.call_soon(callback, self._error)
        else:
            self._close_callbacks.append(callback)

    def remove_close_callback(self, callback: Callable[[Exception | None], object]) -> None:
        """Forget a `callback` that was added; does nothing if there is none."""
        if callback in self._close_callbacks:
            self._close_callbacks.remove(callback)

    # What the stream tells us.

    def frame_received(self, frame: bytes) -> None:
        """A frame came. Whatever is wrong with it ends in the stream's end, not in a raise."""
        self._intake.take(frame)

    def pause_writing(self) -> None:
        """The stream asks to wait with more frames."""
        self._writer.set_ready(False)

    def resume_writing(self) -> None:
        """The stream takes frames again."""
        self._writer.set_ready(True)

    def _drain(self) -> None:
        """Tell the channels in turn that the stream keeps up, for as long as it does.

        Who was not told when it was full again is told first the next time.
        """
        channels = [channel for channel in self if channel.on_drain is not None]
        for _ in channels:
            if not self._writer.drained:
                break
            channel = channels[self._drained_up_to % len(channels)]
            self._drained_up_to += 1
            if not channel.is_closed:  # by the hook of another
                channel.drain()

    def connection_lost(self, error: Exception | None) -> None:
        """The stream is gone: every channel closes, and nothing is left of the peer.

        After an orderly close that is done when the last of its frames was taken.
        """
        self._error = error
        self._writer.close()
        if error is not None:
            self._intake.close()
        self._intake.end(self._lose)

    def _lose(self) -> None:
        error = self._error
        self._board.lose()
        callbacks, self._close_callbacks = self._close_callbacks, []
        for callback in callbacks:
            try:
                callback(error)
            except Exception:
                _log.exception("a close callback of %r failed", self)
