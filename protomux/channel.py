"""A channel: one protocol between two peers. Knows its life, its messages and its hooks.

Which number it has, whom it is paired with and how its bytes travel is the mux's affair; the
channel asks for that through its `Link`.

The life of a channel:

    state      event                                  next
    CREATED    open()                                 OPENING
    OPENING    the peer's open                        OPEN       on_open
    CREATED    close(), stream lost                   CLOSED     on_close
    OPENING    close(), peer's reject, stream lost    CLOSED     on_close
    OPEN       close(), peer's close, stream lost     CLOSED     on_close
    CLOSED     the last of its hooks has ended        DESTROYED  on_destroy

`_TRANSITIONS` holds the same table; no state is entered but through it. Messages can be sent
from OPENING on: the peer holds them until its own side is open.

A hook that raises destroys the stream with its error. Once the channel is closed there may be
no stream left to destroy, so the error is only logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum, auto
from typing import Any, Final, Generic, Protocol, Self, TypeAlias, TypeVar

from protomux.encoding import Encoding, raw, uint
from protomux.errors import StreamClosed
from protomux.hooks import is_pending, settle

__all__ = ["Channel", "Handler", "Handlers", "Link", "Message", "MessageSpec", "OnMessage"]

_log = logging.getLogger("protomux")

T = TypeVar("T")

OnMessage: TypeAlias = Callable[[Any, "Channel"], object]
"""on_message(value, channel), plain or async."""

MessageSpec: TypeAlias = (
    Encoding[Any] | tuple[Encoding[Any], OnMessage | None] | Mapping[str, Any] | None
)
"""One entry of `messages`: an encoding, (encoding, on_message), the keyword arguments of
`Channel.add_message`, or None for a type that this side skips."""


class _State(IntEnum):
    CREATED = auto()
    OPENING = auto()
    OPEN = auto()
    CLOSED = auto()
    DESTROYED = auto()


# To ask an enum for its member takes Python 3.11 as long as a call.
_CREATED, _OPENING, _OPEN, _CLOSED, _DESTROYED = _State

_TRANSITIONS: Final = {
    _CREATED: {_OPENING, _CLOSED},
    _OPENING: {_OPEN, _CLOSED},
    _OPEN: {_CLOSED},
    _CLOSED: {_DESTROYED},
    _DESTROYED: set[_State](),
}


class Drain(Protocol):
    """What a channel knows of where it sends."""

    @property
    def drained(self) -> bool:
        """The stream keeps up."""
        ...


class Link(Protocol):
    """What a channel needs of its mux."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where async hooks run."""
        ...

    @property
    def writer(self) -> Drain:
        """Where what it sends goes."""
        ...

    def check_open(self, handshake: bytes) -> None:
        """Raise StreamClosed or LimitExceeded where `open` cannot be done."""
        ...

    def open(self, handshake: bytes) -> None:
        """Give the channel a number and send its open."""
        ...

    def send(self, body: bytes) -> bool:
        """Send a message's type and payload."""
        ...

    def close(self) -> None:
        """Send the close, and forget the channel."""
        ...

    def cork(self) -> None:
        """Hold back what the mux sends."""
        ...

    def uncork(self) -> None:
        """Undo one `cork`."""
        ...

    def hook_started(self) -> None:
        """An async hook runs."""
        ...

    def hook_ended(self) -> None:
        """An async hook has ended."""
        ...

    def fail(self, error: Exception) -> None:
        """Destroy the stream with `error`."""
        ...


class Handler(Generic[T]):
    """What is done with messages of one type.

    Attributes:
        encoding: how its values look; None for a type that this side skips.
        on_message: on_message(value, channel), plain or async.
    """

    __slots__ = ("encoding", "on_message")

    def __init__(
        self,
        encoding: Encoding[T] | None = raw,  # type: ignore[assignment]
        on_message: Callable[[T, Channel], object] | None = None,
    ) -> None:
        self.encoding = encoding
        self.on_message = on_message


class Handlers(tuple[Handler[Any], ...]):
    """The message types of a protocol, made once for all of its channels.

    Attributes:
        types: the same as a tuple itself, in which Python finds one faster than in a subclass.
    """

    types: tuple[Handler[Any], ...]

    @classmethod
    def of(cls, specs: Iterable[MessageSpec]) -> Self:
        """Return the handlers that `specs` describe, in order."""
        return cls(
            Handler(**spec)
            if isinstance(spec, Mapping)
            else Handler(*(spec if isinstance(spec, tuple) else (spec,)))
            for spec in specs
        )

    def __new__(cls, types: Iterable[Handler[Any]] = ()) -> Self:
        """Make them of handlers."""
        made = super().__new__(cls, types)
        made.types = tuple(made)
        return made


class Message(Handler[T]):
    """One message type of one channel.

    Attributes:
        channel: the channel it belongs to.
        type: its number, counted from 0 in the order in which types were added.
        encoding: how its values look; None for a type that this side skips.
        on_message: on_message(value, channel), plain or async; may be set at any time.
    """

    __slots__ = ("_prefix", "channel", "type")

    def __init__(
        self,
        channel: Channel,
        type: int,
        encoding: Encoding[T] | None,
        on_message: Callable[[T, Channel], object] | None,
    ) -> None:
        super().__init__(encoding, on_message)
        self.channel = channel
        self.type = type
        self._prefix = uint.encode(type)

    def __repr__(self) -> str:
        return f"<Message {self.type} of {self.channel!r}>"

    def send(self, value: T) -> bool:
        """Send `value` at the end of this loop tick.

        Returns False where the application should wait: until `on_drain` if the stream does not
        keep up, for ever if the channel is closed (the value is dropped then).

        Raises EncodingError for a value that does not fit the encoding, LimitExceeded for one
        that is too large for a frame, RuntimeError before `open()` and for a skipped type.
        """
        if self.encoding is None:
            raise RuntimeError(f"expected a message type with an encoding, {self!r} is skipped")
        return self.channel.send_body(self._prefix + self.encoding.encode(value))


class Channel:
    """One protocol between two peers, under one binary id. Made by `Protomux.create_channel`.

    Attributes:
        protocol: its name.
        aliases: other names that pair with it.
        id: binary id, None where the protocol has only one channel.
        handshake: what the peer sent with its open; None before that, or without an encoding.
        user_data: the application's own.
        on_open, on_close, on_destroy, on_drain: the hooks, plain or async, each may be None.
    """

    __slots__ = (
        "__weakref__",
        "_destroyed",
        "_encoding",
        "_handlers",
        "_link",
        "_messages",
        "_open_decided",
        "_running",
        "_state",
        "_was_open",
        "aliases",
        "handshake",
        "id",
        "on_close",
        "on_destroy",
        "on_drain",
        "on_open",
        "protocol",
        "user_data",
    )

    def __init__(
        self,
        link: Link,
        protocol: str,
        id: bytes | None,
        *,
        aliases: tuple[str, ...] = (),
        handshake: Encoding[Any] | None = None,
        messages: Handlers | Iterable[MessageSpec] = (),
        user_data: Any = None,
        on_open: Callable[[Any, Channel], object] | None = None,
        on_close: Callable[[bool, Channel], object] | None = None,
        on_destroy: Callable[[Channel], object] | None = None,
        on_drain: Callable[[Channel], object] | None = None,
    ) -> None:
        self.protocol: Final = protocol
        self.aliases: Final = aliases
        self.id: Final = id
        self.handshake: Any = None
        self.user_data = user_data
        self.on_open = on_open
        self.on_close = on_close
        self.on_destroy = on_destroy
        self.on_drain = on_drain
        self._link = link
        self._messages: list[Message[Any]] | None = None
        if not isinstance(messages, Handlers):
            messages = Handlers.of(messages)
        self._handlers: Sequence[Handler[Any]] = messages.types
        self._encoding = handshake
        self._state = _CREATED
        self._was_open = False
        self._running = 0
        self._open_decided: asyncio.Event | None = None
        self._destroyed: asyncio.Event | None = None

    def __repr__(self) -> str:
        id = "" if self.id is None else f" {self.id.hex()[:16]}"
        return f"<Channel {self.protocol!r}{id} {self._state.name.lower()}>"

    @property
    def messages(self) -> list[Message[Any]]:
        """Its message types, in order."""
        if self._messages is None:  # many a channel never needs its own
            self._handlers = self._messages = [
                Message(self, type, handler.encoding, handler.on_message)
                for type, handler in enumerate(self._handlers)
            ]
        return self._messages

    @property
    def is_open(self) -> bool:
        """Both sides have opened it and neither has closed it."""
        return self._state is _OPEN

    @property
    def is_closed(self) -> bool:
        """It was closed by either side, rejected, or lost its stream."""
        state = self._state
        return state is _CLOSED or state is _DESTROYED

    @property
    def is_destroyed(self) -> bool:
        """It is closed and none of its hooks runs any more."""
        return self._state is _DESTROYED

    @property
    def drained(self) -> bool:
        """False from a send that returned False until `on_drain`."""
        return self._link.writer.drained

    def add_message(
        self,
        encoding: Encoding[T] | None = raw,  # type: ignore[assignment]
        on_message: Callable[[T, Channel], object] | None = None,
    ) -> Message[T]:
        """Add the next message type; None for one that is neither sent nor read here."""
        messages = self.messages
        message = Message(self, len(messages), encoding, on_message)
        messages.append(message)
        return message

    def open(self, handshake: Any = None) -> None:
        """Open our side, with `handshake` in the encoding that the channel was created with.

        Raises RuntimeError when it was opened before, StreamClosed when it is closed already,
        EncodingError for a handshake that does not fit.
        """
        if self.is_closed:
            raise StreamClosed(f"expected a channel that is not closed, got {self!r}")
        if self._state is not _CREATED:
            raise RuntimeError(f"expected a channel that was not opened yet, got {self!r}")
        data = b"" if self._encoding is None else self._encoding.encode(handshake)
        self._link.check_open(data)
        self._enter(_OPENING)
        self._link.open(data)

    def close(self) -> None:
        """Close the channel and tell the peer; does nothing when it is closed already."""
        if not self.is_closed:
            self._link.close()
            if not self.is_closed:  # the close itself may have cost the stream
                self.end(is_remote=False)

    def cork(self) -> None:
        """As `Protomux.cork`: all channels of a stream share its batch."""
        self._link.cork()

    def uncork(self) -> None:
        """As `Protomux.uncork`."""
        self._link.uncork()

    async def wait_opened(self) -> bool:
        """Wait until both sides are open; False if it closes before that."""
        if self._state in (_CREATED, _OPENING):
            if self._open_decided is None:
                self._open_decided = asyncio.Event()
            await self._open_decided.wait()
        return self._was_open

    async def wait_closed(self) -> None:
        """Wait until the channel is closed and its last hook has ended.

        Not from inside one of its async hooks, which would wait for itself.
        """
        if self._state is not _DESTROYED:
            if self._destroyed is None:
                self._destroyed = asyncio.Event()
            await self._destroyed.wait()

    def run_hook(self, hook: Callable[..., object] | None, args: tuple[object, ...]) -> None:
        """Call `hook(*args)`, plain or async, as one of this channel's: it fails as they do."""
        if hook is None:
            return
        try:
            result = hook(*args)
        except asyncio.CancelledError:
            return  # as of an async hook: somebody wanted it to end
        except Exception as error:
            self._fail(error)
            return
        if result is not None:
            self._hook_returned(result)

    def _hook_returned(self, result: object) -> None:
        if is_pending(result):
            self._running += 1
            self._link.hook_started()
            settle(result, self._link.loop, self._hook_settled)

    def _hook_settled(self, _result: object, error: BaseException | None) -> None:
        self._running -= 1
        self._link.hook_ended()
        if isinstance(error, Exception):
            self._fail(error)
        self._destroy_if_done()

    def _fail(self, error: Exception) -> None:
        if self.is_closed:
            _log.error("a hook of %r failed after it closed", self, exc_info=error)
        else:
            # Also told to the stream's receiver, but an application that does not look there
            # would take its own mistake for a peer that left.
            _log.warning("a hook of %r failed, its stream is aborted", self, exc_info=error)
            self._link.fail(error)

    def _enter(self, state: _State) -> None:
        if state not in _TRANSITIONS[self._state]:
            raise AssertionError(f"no way from {self._state} to {state}")
        self._state = state

    def _destroy_if_done(self) -> None:
        if self._state is _CLOSED and self._running == 0:
            self._enter(_DESTROYED)
            self.run_hook(self.on_destroy, (self,))
            if self._destroyed is not None:
                self._destroyed.set()

    # The rest is called by the mux and by this module's Message.

    def send_body(self, body: bytes) -> bool:
        """Send a message that is encoded already: its type, then its payload."""
        state = self._state
        if state is _OPEN or state is _OPENING:
            return self._link.send(body)
        if state is _CREATED:
            raise RuntimeError(f"expected open() before a message is sent on {self!r}")
        return False

    def complete(self, handshake: bytes) -> None:
        """Both sides are open now; `handshake` is what came with the peer's open."""
        if self._encoding is not None:
            self.handshake, _ = self._encoding.decode(handshake, 0, len(handshake))
        self._enter(_OPEN)
        self._was_open = True
        if self._open_decided is not None:
            self._open_decided.set()
        self.run_hook(self.on_open, (self.handshake, self))

    def deliver(self, type: int, data: bytes, start: int, end: int) -> None:
        """A message came; a type that is not known here is skipped, as by the originals."""
        try:
            handler = self._handlers[type]
        except IndexError:
            return
        on_message = handler.on_message
        encoding = handler.encoding
        if on_message is None or encoding is None:
            return
        value, _ = encoding.decode(data, start, end)
        try:  # as run_hook does it, which would take longer than many a hook
            result = on_message(value, self)
        except asyncio.CancelledError:
            return
        except Exception as error:
            self._fail(error)
            return
        if result is not None:
            self._hook_returned(result)

    def end(self, *, is_remote: bool) -> None:
        """The channel is closed, by the peer or the stream's loss if `is_remote`."""
        self._enter(_CLOSED)
        if self._open_decided is not None:
            self._open_decided.set()
        self.run_hook(self.on_close, (is_remote, self))
        self._destroy_if_done()

    def drain(self) -> None:
        """The stream keeps up again."""
        self.run_hook(self.on_drain, (self,))
