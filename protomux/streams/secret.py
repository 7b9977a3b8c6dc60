"""SecretStream: an encrypted framed stream over any asyncio transport.

Knows the transport, and when what flows. `incoming` cuts what comes into messages: those of the
`opening` first, and after the peer's header every one is an encrypted frame, which `cipher` reads.

The stream is open, and can be written to, when the handshake is complete: we may write a while
before the peer's header has come. Whatever is wrong aborts it.

Closing. `close()` ends our half (the transport's EOF) after what was written; the peer's frames
still come, until it has ended its half as well. A peer that ends first is answered in the same
way, so nothing that was written is lost on either side. A peer that does not answer is cut off
when nothing has moved for `CLOSE_TIMEOUT`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from math import isfinite
from typing import Final, TypedDict, cast

from protomux.crypto import KEY_SIZE, KeyPair
from protomux.errors import (
    HandshakeError,
    LimitExceeded,
    ProtocolError,
    StreamClosed,
)
from protomux.limits import Limits
from protomux.streams.admission import Admission, Firewall
from protomux.streams.base import BaseStream, FrameReceiver
from protomux.streams.cipher import OVERHEAD, Decryptor, Encryptor
from protomux.streams.idle import IdleTimer
from protomux.streams.incoming import LENGTH_SIZE, Incoming, Taker, message_of
from protomux.streams.noise import Handshake
from protomux.streams.opening import Opening
from protomux.streams.unordered import OVERHEAD as MESSAGE_OVERHEAD
from protomux.streams.unordered import Unordered

__all__ = ["CLOSE_TIMEOUT", "MAX_FRAME", "SecretStream", "SecretStreamOptions"]

MAX_FRAME: Final = 2**24 - 1 - OVERHEAD
"""Largest frame in bytes: the length field has 24 bits, and the cipher adds 17 bytes."""

CLOSE_TIMEOUT: Final = 10.0
"""Seconds without a byte either way after which a closing stream gives its peer up."""

_HIGH_WATER: Final = 64 * 1024
"""Bytes that wait in the stream itself, either way, before the flow stops: those written before
it is open, and those read while the receiver pauses. As in asyncio's transports."""


class SecretStreamOptions(TypedDict, total=False):
    """Keyword arguments that every way to make a `SecretStream` takes; see there."""

    key_pair: KeyPair | None
    remote_public_key: bytes | None
    pattern: str
    firewall: Firewall | None
    keep_alive: float
    timeout: float
    limits: Limits


class _Scratch(threading.local):
    """Where what comes is read into, by all streams of a thread in turn.

    Attributes:
        view: as large as what asyncio reads at once.
    """

    def __init__(self) -> None:
        self.view: Final = memoryview(bytearray(256 * 1024))


_scratch: Final = _Scratch()


class _Sieve:
    """Takes frames in place of a receiver, and drops those that are only a sign of life."""

    __slots__ = ("_receiver",)

    def __init__(self, receiver: FrameReceiver | None) -> None:
        self._receiver = receiver

    def frame_received(self, frame: bytes) -> None:
        """One frame; none of them is for anybody where there is no receiver."""
        if self._receiver is not None and frame:
            self._receiver.frame_received(frame)


class SecretStream(BaseStream, asyncio.BufferedProtocol, asyncio.Protocol):
    """An encrypted `FramedStream`; the asyncio.Protocol of the transport that carries it.

    Attributes:
        is_initiator: this side writes the first Noise message.
        public_key: our static key, 32 bytes.
        remote_public_key: the peer's, None before the stream is open.
        handshake_hash: 64 bytes, None before the stream is open.
        error: what ended the stream; None while it lives and after an orderly close.
        on_message: called with each unordered message of the peer, see `send`; None drops them.
    """

    __slots__ = (
        "__dict__",  # for the application's own attributes
        "_deadline",
        "_early",
        "_early_size",
        "_encryptor",
        "_has_ended",
        "_incoming",
        "_is_aborted",
        "_is_closing",
        "_is_writable",
        "_limits",
        "_opened",
        "_opening",
        "_peer_has_ended",
        "_silence_in",
        "_silence_out",
        "_transport",
        "_transport_is_full",
        "_transport_is_held",
        "_unordered",
        "handshake_hash",
        "is_initiator",
        "on_message",
        "public_key",
        "remote_public_key",
    )

    def __init__(
        self,
        is_initiator: bool,
        *,
        key_pair: KeyPair | None = None,
        remote_public_key: bytes | None = None,
        pattern: str = "XX",
        firewall: Firewall | None = None,
        keep_alive: float = 0.0,
        timeout: float = 0.0,
        limits: Limits = Limits(),
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Prepare one side; the handshake begins with `connection_made`.

        Args:
            is_initiator: exactly one side is.
            key_pair: our static keys; random ones unless given.
            remote_public_key: the only key that the peer may have, 32 bytes. The initiator of IK
                and XK must give it.
            pattern: Noise pattern, XX, IK or XK; both sides must use the same.
            firewall: called with the peer's key before the stream opens; True refuses it.
            keep_alive: seconds without a write after which an empty message is sent; empty
                messages of the peer are dropped then. 0 turns it off.
            timeout: seconds without a byte from the peer after which the stream is aborted; 0
                turns it off.
            limits: of these, `handshake_time` and `frame_size` are the stream's.
            loop: the event loop; the running one unless given.
        """
        super().__init__(asyncio.get_running_loop() if loop is None else loop)
        if remote_public_key is not None and len(remote_public_key) != KEY_SIZE:
            raise ValueError(
                f"expected a remote_public_key of 32 bytes, got {len(remote_public_key)}"
            )
        for name, seconds in (("keep_alive", keep_alive), ("timeout", timeout)):
            if seconds < 0:
                raise ValueError(f"expected {name} of 0 seconds or more, got {seconds}")
        key_pair = KeyPair.generate() if key_pair is None else key_pair
        self.is_initiator: Final = is_initiator
        self.public_key: bytes | None = key_pair.public_key
        self.remote_public_key: bytes | None = None
        self.handshake_hash: bytes | None = None
        self._transport: asyncio.Transport | None = None
        self._opening: Opening | None = Opening(  # until the peer's header has come
            Handshake(pattern, is_initiator, key_pair, remote_public_key),
            Admission(remote_public_key, firewall, self._loop),
            send=self._send,
            admitted=self._admitted,
            agreed=self._agree,
            proved=self._prove,
        )
        self._encryptor: Encryptor | None = None  # while what is written goes out
        self._opened: asyncio.Event | None = None
        # reading
        self._incoming = Incoming(limits.frame_size + OVERHEAD)
        self._peer_has_ended = False
        self._transport_is_held = False
        # writing
        self._early: list[bytes] = []
        self._early_size = 0
        self._transport_is_full = False
        self._is_writable = True
        # beside the frames
        self.on_message: Callable[[bytes], object] | None = None
        self._unordered: Unordered | None = None  # from its first use on
        # closing
        self._is_closing = False
        self._has_ended = False
        self._is_aborted = False
        # time
        self._deadline: asyncio.TimerHandle | None = None
        self._limits = limits
        self._silence_out: IdleTimer | None = None
        self._silence_in: IdleTimer | None = None
        self.set_keep_alive(keep_alive)
        self.set_timeout(timeout)

    def __repr__(self) -> str:
        if self.is_closing:
            state = "gone" if self._is_lost else "closing"
        else:
            state = "open" if self.is_open else "opening"
        return f"<SecretStream {'initiator' if self.is_initiator else 'responder'} {state}>"

    @property
    def is_open(self) -> bool:
        """The handshake is complete and the stream is not gone."""
        return self.handshake_hash is not None and not self._is_dead

    @property
    def is_closing(self) -> bool:
        """`close()` was called here, or the peer has ended its half, or the stream is gone."""
        return self._is_closing or self._is_dead

    @property
    def transport(self) -> asyncio.Transport | None:
        """The transport below, for its `get_extra_info`; None before `connection_made`."""
        return self._transport

    async def wait_opened(self) -> None:
        """Wait until the handshake is complete.

        Raises HandshakeError, StreamClosed or whatever else ended the stream before that.
        """
        if self.handshake_hash is None and not self._is_lost:
            if self._opened is None:
                self._opened = asyncio.Event()
            await self._opened.wait()
        if not self.is_open:
            raise self.error or StreamClosed("the stream is closed")

    def set_keep_alive(self, seconds: float) -> None:
        """Send an empty message after so many seconds without a write; 0 turns it off.

        Empty messages of the peer are dropped while it is on, and delivered while it is off.
        """
        self._silence_out = self._timer(self._silence_out, seconds, self._send_keep_alive)
        self._direct()

    def set_timeout(self, seconds: float) -> None:
        """Abort after so many seconds without a byte of the peer; 0 turns it off."""
        self._silence_in = self._timer(self._silence_in, seconds, self._time_out)

    # FramedStream

    def set_receiver(self, receiver: FrameReceiver) -> None:
        """Hand all frames from now on to `receiver`; tell it if the stream is gone already."""
        super().set_receiver(receiver)
        self._direct()

    def pause_reading(self) -> None:
        """Deliver no frame until `resume_reading`."""
        super().pause_reading()
        self._direct()

    def resume_reading(self) -> None:
        """Deliver frames again, from the next loop tick on."""
        super().resume_reading()
        self._direct()

    def write(self, frame: bytes) -> bool:
        """Encrypt and send one frame of at most `MAX_FRAME` bytes (LimitExceeded beyond).

        Returns False where it is better to wait for `resume_writing`, and for a stream that has
        closed, which drops the frame. Frames written before the stream is open wait for that.
        """
        encryptor, transport = self._encryptor, self._transport
        if encryptor is not None and transport is not None:
            try:
                message = encryptor.encrypt(frame, LENGTH_SIZE)
            except OverflowError:
                raise _too_large(frame) from None
            if self._silence_out is not None:
                self._silence_out.touch()
            # Not writelines, which would save a copy: in asyncio of Python 3.12 and 3.13 it knows
            # neither pause_writing nor connections that are lost.
            transport.write(message)
        elif len(frame) > MAX_FRAME:
            raise _too_large(frame)
        elif self._has_ended or self._is_dead:
            return False
        else:
            self._early.append(frame)
            self._early_size += len(frame)
            self._update_writable()
        return self._is_writable

    @property
    def max_message_size(self) -> int:
        """Bytes of the largest message that `send` takes now; 0 where the transport has none."""
        most: int = getattr(self._transport, "max_message_size", 0)
        return max(most - MESSAGE_OVERHEAD, 0)

    def send(self, data: bytes) -> bool:
        """Encrypt `data` and send it as one packet: it may be lost, or come in any order.

        The peer gets it at most once, by its `on_message`, beside the frames. Only a transport with
        messages can do that, which is UDX. Returns False where it was not sent: before the stream
        is open, after its end, and over any other transport. Raises LimitExceeded beyond
        `max_message_size`.
        """
        transport = self._transport
        send_message = getattr(transport, "send_message", None)
        if self._encryptor is None or send_message is None:
            return False
        if len(data) > self.max_message_size:
            raise LimitExceeded(
                f"expected a message of at most {self.max_message_size} bytes, got {len(data)}"
            )
        send_message(self._messages().seal(data))
        return True

    def _messages(self) -> Unordered:
        if self._unordered is None:
            assert self.handshake_hash is not None
            self._unordered = Unordered(self.is_initiator, self.handshake_hash)
        return self._unordered

    def close(self) -> None:
        """Flush, end our half, and close when the peer has ended its own."""
        if not self.is_closing:
            self._is_closing = True
            self._end_soon(self._end)

    def abort(self, error: Exception | None = None) -> None:
        """Close the transport at once; what is not sent is lost."""
        self._cut(error or StreamClosed("the stream was aborted"))

    def _cut(self, error: Exception | None) -> None:
        if self._is_dead:
            return
        self._is_aborted = True
        self.error = error
        self._encryptor = None
        self._direct()
        self._incoming.clear()
        self._early.clear()
        if self._transport is None:
            self._loop.call_soon(self._lose, error)
        else:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is there: begin the handshake."""
        self._transport = cast(asyncio.Transport, transport)
        if self._is_dead:
            self._transport.abort()
            return
        seconds = self._limits.handshake_time
        if isfinite(seconds):
            late = HandshakeError(f"no complete handshake after {seconds} s")
            self._deadline = self._loop.call_later(seconds, self.abort, late)
        for timer in (self._silence_out, self._silence_in):
            if timer is not None:
                timer.start()
        self._shake_hands()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the transport may put what it reads, until it says `buffer_updated`."""
        return _scratch.view[:]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes came from the transport."""
        self.data_received(_scratch.view[:nbytes])

    def data_received(self, data: bytes | memoryview) -> None:
        """Bytes came from the transport; they are its own again when this returns."""
        if self._silence_in is not None:
            self._silence_in.touch()
        try:
            if self._incoming.feed(data):
                return
        except BaseException as error:
            self._fail(error)
            return
        self._pump()

    def message_received(self, message: bytes) -> None:
        """An unordered message came from the transport; what cannot be read is dropped."""
        data = self._messages().open(message) if self.is_open else None
        if data is None:
            return
        if self._silence_in is not None:
            self._silence_in.touch()
        if self.on_message is not None:
            try:
                self.on_message(data)
            except BaseException as error:
                self._fail(error)

    def eof_received(self) -> bool:
        """The peer has ended its half; the transport stays open for ours."""
        self._peer_has_ended = True
        self._pump()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        error = self.error
        if error is None and not self._is_aborted:
            if self._opening is not None and not self._is_closing:
                error = HandshakeError("the connection was lost before the handshake was complete")
            elif exc is not None:
                error = StreamClosed(f"the connection was lost: {exc}")
            if error is not None:
                error.__cause__ = exc
        self._lose(error)

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._transport_is_full = True
        self._update_writable()

    def resume_writing(self) -> None:
        """The transport's buffer has drained."""
        self._transport_is_full = False
        self._update_writable()

    # Reading

    @property
    def _is_dead(self) -> bool:
        return self._is_lost or self._is_aborted

    @property
    def _can_take(self) -> bool:
        if self._opening is not None:
            return not (self._opening.is_waiting or self._is_dead)
        return self._incoming.taker is not None

    def _direct(self) -> None:
        """Say where frames go from now on, after anything has changed that decides it."""
        taker: Taker | None = None
        receiver = self._receiver
        if self._opening is not None or self._is_dead:
            pass
        elif receiver is None:
            taker = _Sieve(None) if self._has_ended else None  # nobody will ever want them
        elif not self._is_paused:
            taker = receiver if self._silence_out is None else _Sieve(receiver)
        self._incoming.taker = taker

    def _pump(self) -> None:
        """Take every whole message that may be taken now."""
        incoming = self._incoming
        try:
            while self._opening is not None and incoming.size >= 0 and self._can_take:
                self._opening.check_size(incoming.size)
                message = incoming.take(message_of)
                if message is None:
                    break
                self._opening.take(message)
            incoming.hand_on()
            most = self._limits.frame_size
            if incoming.taker is not None and incoming.size > most + OVERHEAD:
                got = incoming.size - OVERHEAD  # refused before its bytes are waited for
                raise LimitExceeded(f"expected a frame of at most {most} bytes, got {got}")
        except BaseException as error:
            self._fail(error)
        # Some bytes are taken in even if nobody wants their frames yet: a stream that does not
        # read does not learn that its peer is gone.
        is_held = incoming.waiting > _HIGH_WATER and not self._can_take
        if is_held is not self._transport_is_held or self._peer_has_ended:
            self._update_reading(is_held)

    def _fail(self, error: BaseException) -> None:
        """What the peer sent was wrong, or failed in the receiver's hands."""
        if isinstance(error, Exception):
            self.abort(error)
        else:  # KeyboardInterrupt in a hook: nobody knows what was taken
            self.abort(StreamClosed("the application was interrupted while it took a frame"))
            raise error

    def _update_reading(self, is_held: bool) -> None:
        """Let the transport read or not; answer the end of what the peer sends."""
        transport = self._transport
        if self._is_dead or transport is None or transport.is_closing():
            return
        if self._peer_has_ended:
            has_taken_all = not self._incoming.waiting and (
                self._has_ended or self._receiver is None
            )
            if has_taken_all or self._can_take:
                self._answer_end()
            elif self._deadline is None:
                # Who does not read now may have answers for what it has; but not for ever.
                self._deadline = self._loop.call_later(CLOSE_TIMEOUT, self._answer_end)
        else:
            self._transport_is_held = is_held
            if is_held:
                transport.pause_reading()
            else:
                transport.resume_reading()

    # Opening

    def _shake_hands(self) -> None:
        assert self._opening is not None
        try:
            self._opening.go_on()
        except HandshakeError as error:
            self.abort(error)

    def _admitted(self, refusal: HandshakeError | None) -> None:
        if self._is_dead:
            return
        if refusal is not None:
            self.abort(refusal)
            return
        self._shake_hands()
        self._pump_soon()

    def _agree(self, encryptor: Encryptor) -> None:
        """The handshake is complete: the stream is open, and can be written to."""
        assert self._opening is not None
        noise = self._opening.noise
        assert noise.keys is not None
        self.remote_public_key = noise.remote_public_key
        self.handshake_hash = noise.keys.handshake_hash
        self._encryptor = encryptor
        early, self._early, self._early_size = self._early, [], 0
        for frame in early:
            self.write(frame)
        self._update_writable()
        if self._opened is not None:
            self._opened.set()
        if self._is_closing:
            self._loop.call_soon(self._end)

    def _prove(self, decryptor: Decryptor) -> None:
        """The peer's header was right: it has the keys of this handshake, and not a replay."""
        self._opening = None
        self._incoming.opener = decryptor
        self._direct()
        if not self._is_closing:
            self._clear_deadline()

    # Writing

    def _send(self, message: bytes) -> None:
        """Write one message of the handshake, or the header."""
        assert self._transport is not None
        if self._silence_out is not None:
            self._silence_out.touch()
        self._transport.write(len(message).to_bytes(LENGTH_SIZE, "little") + message)

    def _update_writable(self) -> None:
        is_writable = not self._transport_is_full and self._early_size <= _HIGH_WATER
        if is_writable is self._is_writable:
            return
        self._is_writable = is_writable
        if self._receiver is not None:
            if is_writable:
                self._receiver.resume_writing()
            else:
                self._receiver.pause_writing()

    # Time

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _timer(
        self, old: IdleTimer | None, seconds: float, callback: Callable[[], None]
    ) -> IdleTimer | None:
        """Return a timer in place of the old one; None for 0 seconds, most streams have none."""
        if old is not None:
            old.stop()
        if seconds <= 0 or self._is_lost:
            return None
        timer = IdleTimer(self._loop, seconds, callback)
        if self._transport is not None:
            timer.start()
        return timer

    def _send_keep_alive(self) -> None:
        if self.is_open:
            self.write(b"")

    def _time_out(self) -> None:
        assert self._silence_in is not None
        if self._transport is not None and self._transport.is_reading():
            self.abort(StreamClosed(f"nothing came from the peer for {self._silence_in.seconds} s"))

    # Closing

    def _end(self) -> None:
        """End our half, after what was written."""
        if self._is_dead or self._has_ended:
            return
        transport = self._transport
        if transport is None or (self._encryptor is None and not self._early):
            self._cut(None)  # there is nothing to flush
            return
        self._watch_close(None)
        if self._encryptor is None:
            return  # the early frames go first: _agree comes back here
        self._has_ended = True
        self._encryptor = None
        self._direct()
        if transport.can_write_eof():
            with suppress(OSError):  # the peer has reset the connection; reading will tell
                transport.write_eof()
            self._pump_soon()  # what the peer sent is still to be taken, or now to be dropped
        else:
            transport.close()

    def _watch_close(self, before: tuple[int, int, int, bool] | None) -> None:
        """Abort when nothing has moved either way since the last look at it."""
        transport, incoming = self._transport, self._incoming
        assert transport is not None
        now = (
            transport.get_write_buffer_size(),
            incoming.received,
            incoming.waiting,
            transport.is_closing(),  # for a tick or so, but the loop may stand still in that one
        )
        if now == before:
            late = f"within {CLOSE_TIMEOUT} s"
            if incoming.waiting:
                self.abort(StreamClosed(f"nobody took what the peer sent {late}"))
            else:
                self.abort(StreamClosed(f"the peer did not close {late}"))
        else:
            self._clear_deadline()
            self._deadline = self._loop.call_later(CLOSE_TIMEOUT, self._watch_close, now)

    def _answer_end(self) -> None:
        """The peer has ended its half and all that it sent is taken."""
        assert self._transport is not None
        if self._incoming.waiting and not self._can_take:
            self.abort(StreamClosed(f"nobody took what the peer sent within {CLOSE_TIMEOUT} s"))
        elif self._incoming.waiting:
            self.abort(ProtocolError("the stream ended inside a message"))
        elif self._opening is not None:
            self.abort(HandshakeError("the peer closed before the handshake was complete"))
        elif self._has_ended:
            self._transport.close()
        else:
            self.close()

    def _lose(self, error: Exception | None) -> None:
        self._clear_deadline()
        for timer in (self._silence_out, self._silence_in):
            if timer is not None:
                timer.stop()
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        self._incoming.clear()
        self._early.clear()
        self._encryptor = None
        super()._lose(error)
        self._direct()
        if self._opened is not None:
            self._opened.set()


def _too_large(frame: bytes) -> LimitExceeded:
    return LimitExceeded(f"expected a frame of at most {MAX_FRAME} bytes, got {len(frame)}")
